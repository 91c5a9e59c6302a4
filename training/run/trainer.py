"""The training loop, on accelerate.Accelerator, for pretraining and for adaptation.

The random numbers of a step depend only on (seed, step, micro-batch), and its data only on a cursor. So a resumed run
has the same losses as an uninterrupted one, and a step on two processes equals a step on one process with twice the
accumulation.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn

import torch
from accelerate import Accelerator
from tqdm import tqdm

from nbdiff_engine.model.attention import PADDING
from training.data.documents import DocumentSource
from training.errors import RunError
from training.failure_kind import FailureKind
from training.model.base import TrainedModel
from training.model.draft_adapters import TrainedDraftAdapter
from training.objective.draft_objective import DraftObjective
from training.objective.noising import Batch
from training.objective.objective import Objective
from training.recipe.recipe import Recipe
from training.run.checkpointing import Checkpoint, CheckpointStore, load_optimizer
from training.run.evaluating import Evaluator
from training.run.finishing import Finished, write_final
from training.run.interruption import Interruption
from training.run.log_lines import StepFigures
from training.run.machine import gpu_memory, gpu_use, peak_memory, process_memory, require_compiler
from training.run.optimizers import make_optimizers, rate_at
from training.run.probing import probe_prompts, probe_safely, probes_by_default
from training.run.run_folder import RunFolder
from training.run.run_progress import Progress
from training.run.saving import TrainingState, save_checkpoint
from training.run.sharding import Sharing
from training.run.shards import gathered, whole
from training.run.step_reader import StepReader, packed_length, seed_of
from training.run.summing import summed

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

# From trained weights to a network on the CPU that has all of them, and its adapters.
Plain = Callable[[Mapping[str, torch.Tensor]], "tuple[TrainedModel, PeftModel | TrainedDraftAdapter | None]"]


class Trainer:
    """One run. Every process of a distributed run creates a Trainer with the same arguments."""

    def __init__(
        self,
        recipe: Recipe,
        model: TrainedModel,
        objective: Objective | DraftObjective,
        train: DocumentSource,
        held_out: DocumentSource | None,
        folder: RunFolder,
        accelerator: Accelerator,
        adapters: "PeftModel | TrainedDraftAdapter | None" = None,
        on_step: Callable[[StepFigures], object] | None = None,
        plain: Plain | None = None,
    ):
        """adapters: around `model.network` if LoRA is trained. plain: needed for a split network, see `Plain`.

        on_step: called in every process at the end of each step, after its logging, evaluation and checkpoint, if it
        has them. An exception that it raises ends the run.
        """
        self.recipe = recipe
        self.model = model
        self.adapters = adapters
        self.folder = folder
        self.accelerator = accelerator
        self.on_step = on_step
        self.plain = plain
        self.interruption = Interruption()
        steps = recipe.optimisation
        if packed_length(recipe, model) < steps.packed_length:
            cut = packed_length(recipe, model)
            logger.info("packed length cut from %d to %d, the context of %s", steps.packed_length, cut, model.name)
        self.reader = StepReader(
            recipe,
            model,
            train,
            held_out,
            processes=accelerator.num_processes,
            process=accelerator.process_index,
            # FlexAttention is compiled again for every new length.
            multiple=128 if accelerator.device.type == "cuda" else 1,
        )
        self.objective = objective
        if steps.gradient_checkpointing:
            model.network.activation_checkpointing_enable()
        if recipe.compile:
            require_compiler(accelerator.device)
            self.objective.body.compile(dynamic=True)
        self.sharing = Sharing(accelerator, recipe)
        self.wrapped = self.sharing.wrap(self.objective)
        self.parameters = objective.trained()  # after a split, because it replaces them
        self.optimizers = make_optimizers(steps, self.parameters)
        wanted = recipe.saving.probes
        by_default = probes_by_default(model) and not recipe.drafts and not self.sharing.split
        probed = by_default if wanted is None else wanted
        self.prompts = probe_prompts(recipe, model, self.reader) if probed else []
        self.evaluator = Evaluator(
            recipe, model, self.reader, folder, accelerator, self.objective, self.prompts, self.sharing.split
        )
        self.checkpoints = CheckpointStore(folder.checkpoints, recipe.saving.keep)
        self.progress = Progress()

    # -- the loop ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the last step, or until `saving.patience` ends the run, and write `final/`.

        Raises Interrupted after a signal, and RunError if the loss is not finite or a file cannot be written.
        """
        recipe, steps, main = self.recipe, self.recipe.optimisation, self.accelerator.is_main_process
        if main:
            self._log_start()
        bar = tqdm(
            total=steps.max_steps,
            initial=self.progress.step,
            unit="step",
            disable=not main,
            mininterval=1.0,
            desc=recipe.kind,
        )
        with self.interruption, self.reader, bar:
            if self.progress.step == 0 and recipe.saving.eval_every and not self.evaluator.found:
                self.evaluator.run(0, complete=False, stopped=lambda: self.interruption.stop_signal > 0)
                if self._in_any(self.interruption.stop_signal > 0)[0]:
                    raise self.interruption.as_exit(0)
            last = self.evaluator.patience_is_over  # of a resumed run
            while self.progress.step < steps.max_steps and not last:
                figures = self._step()
                done = self.progress.step
                if main and (done % recipe.saving.log_every == 0 or done == steps.max_steps):
                    self.folder.log_step(figures)
                    self.accelerator.log({k: v for k, v in figures.to_json().items() if k != "step"}, step=done)
                bar.set_postfix(loss=f"{figures.loss:.3f}", block=figures.block_size, refresh=False)
                bar.update()
                last = done == steps.max_steps
                better = False
                if last or (recipe.saving.eval_every and done % recipe.saving.eval_every == 0):
                    self.evaluator.run(done, complete=last)
                    better = recipe.saving.best is not None and self.evaluator.last_is_best
                    last = last or self.evaluator.patience_is_over
                stopped, saving = self._requests()
                if last or stopped or saving or better or done % recipe.saving.save_every == 0:
                    self.save(better)
                if self.on_step is not None:
                    self.on_step(figures)
                if stopped and not last:
                    raise self.interruption.as_exit(done)
            finished = self._finished()
        packer = self.reader.packer
        if packer.cut:
            logger.warning("%d documents were longer than the packed length and were cut", packer.cut)
        if packer.refused:
            logger.warning("%d times a document could not be used and was left out", packer.refused)
        write_final(self.folder, finished, self.accelerator)

    def _step(self) -> StepFigures:
        """One optimiser step."""
        started = time.perf_counter()
        steps, step = self.recipe.optimisation, self.progress.step
        fraction = step / steps.max_steps
        ar_weight = self._ar_weight(fraction)
        data = self.reader.take(step, self.progress.cursor)
        count = data.target_count
        if self.recipe.drafts:
            count = max(1.0, *summed(torch.tensor([count], dtype=torch.float64), self.accelerator))
        rate = rate_at(steps, step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        torch.manual_seed(seed_of(self.recipe, "dropout", step, self.accelerator.process_index))
        sums = torch.zeros(self.objective.SUMS, dtype=torch.float64)
        for number, batch in enumerate(data.batches):
            last = number == len(data.batches) - 1
            part = number * self.accelerator.num_processes + self.accelerator.process_index
            if self.recipe.drafts:
                self.sharing.check_batch(batch.document != PADDING)
            with self.sharing.gradient_sync(self.wrapped, last):
                losses = self.wrapped(batch.to(self.accelerator.device), self._open_future(batch, fraction, step, part))
                loss = losses.total(ar_weight) / count
                # DistributedDataParallel averages gradients over processes, but the loss is a sum over them.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            sums += losses.numbers()
        means = self.objective.step_losses(summed(sums, self.accelerator), count, ar_weight)
        norm = float(whole(self.accelerator.clip_grad_norm_(self.parameters.values(), steps.clip or math.inf)))
        if not (math.isfinite(means.loss) and math.isfinite(norm)):
            self._stop_not_finite(step, means.loss, norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        seen = self.progress.tokens_seen + data.tokens
        self.progress = Progress(
            step + 1, data.cursor, seen, self.progress.seconds + seconds, self.reader.rows_per_step
        )
        return StepFigures(
            step=step + 1,
            loss=means.loss,
            loss_mdm=means.mdm,
            loss_ar=means.ar,
            loss_kl=means.kl,
            loss_tv=means.tv,
            block_size=data.block_size,
            lr=rate,
            ar_weight=ar_weight,
            masked_tokens=means.scored,
            eos_share=means.eos_share,
            gradient_norm=norm,
            tokens_seen=self.progress.tokens_seen,
            tokens_per_second=data.tokens / seconds,
            seconds=self.progress.seconds,
            peak_memory=peak_memory(self.accelerator.device),
            process_memory=process_memory(),
            gpu_memory=gpu_memory(self.accelerator.device),
            gpu_use=gpu_use(self.accelerator.device),
        )

    def _ar_weight(self, fraction: float) -> float:
        """The AR weight (lambda) at a fraction of the run."""
        if self.recipe.kind == "pretrain":
            return 1.0
        objective = self.recipe.objective
        end = objective.ar_weight if objective.ar_weight_end is None else objective.ar_weight_end
        return objective.ar_weight + (end - objective.ar_weight) * fraction

    def _open_future(self, batch: Batch, fraction: float, step: int, part: int) -> torch.Tensor | None:
        """`open_future` of `Objective.forward`, drawn for the mask-annealing ablation; None if all keys are visible."""
        share = self.recipe.objective.mask_annealing
        if share == 0 or fraction >= share or self.reader.schedule is None:
            return None
        draw = torch.Generator().manual_seed(seed_of(self.recipe, "anneal", step, part))
        return (torch.rand(batch.ids.shape, generator=draw) < fraction / share).to(self.accelerator.device)

    # -- checkpoints, the end -----------------------------------------------------------------------------

    def save(self, best: bool = False) -> None:
        """Save a checkpoint of the current step, completely or not at all, and run the probes.

        best: keep it until a better one is saved. Raises RunError if it cannot be written.
        """
        self.accelerator.wait_for_everyone()
        if best:
            self.checkpoints.kept_step = self.progress.step
        state = TrainingState(self.model, self.adapters is None, self.parameters, self.optimizers, self.progress)
        split = self.sharing.split
        save_checkpoint(self.checkpoints, state, self.accelerator, split, split and self.recipe.saving.sharded)
        if self.accelerator.is_main_process and self.prompts:
            self._probe()
        self.accelerator.wait_for_everyone()

    def _probe(self) -> None:
        """Run the probes of a checkpoint, and report their figures to the trackers."""
        found = probe_safely(self.folder, self.model, self.prompts, self.progress.step)
        if found is not None:
            figures = {"probes/tokens_per_forward": found.tokens_per_forward, "probes/accuracy": found.accuracy}
            known = {name: value for name, value in figures.items() if value is not None}
            self.accelerator.log(known, step=self.progress.step)

    def resume(self) -> None:
        """Load the newest complete checkpoint; if there is none, the run starts at its first step.

        `check_resumable` has compared the settings.
        """
        newest = self.checkpoints.newest()
        if newest is None:
            logger.warning("no complete checkpoint in %s: starting at the first step", self.folder.path)
            self._drop_repeated_lines()
            return
        self._load_weights(newest)
        load_optimizer(newest.folder, self.optimizers, self.parameters)
        self.progress = Progress.read(newest.folder / "state.json")
        if self.accelerator.is_main_process:
            self.checkpoints.drop_after(newest)
        self._drop_repeated_lines()
        self.checkpoints.kept_step = self._best_step()
        logger.info("resuming after step %d", self.progress.step)

    def _load_weights(self, checkpoint: Checkpoint) -> None:
        name = "model.safetensors" if self.adapters is None else "trained.safetensors"
        self.folder.load_tensors(checkpoint.folder, name, self.parameters)

    def _best_step(self) -> int | None:
        """The best evaluated step whose checkpoint exists, if the recipe asks for it."""
        if self.recipe.saving.best is None:
            return None
        return self.evaluator.best({each.step for each in self.checkpoints.all()})

    def _drop_repeated_lines(self) -> None:
        """Remove the log lines of steps that the run repeats, and read the evaluations of the others."""
        if self.accelerator.is_main_process:
            self.folder.forget_after(self.progress.step)
        self.accelerator.wait_for_everyone()
        self.evaluator.read()

    def _finished(self) -> Finished:
        """What `final/` is made of. With `saving.best: final`, the weights of the best step are loaded for it."""
        progress, best = self.progress, self._best_step()
        early = progress.step < self.recipe.optimisation.max_steps
        if early:
            patience = self.recipe.saving.patience
            logger.info("ended after step %d: %d evaluations were not better", progress.step, patience)
        choice = "last"
        if self.recipe.saving.best == "final" and best is not None:
            choice = "best"
            checkpoint = self.checkpoints.of_step(best)
            if checkpoint is None:
                raise RunError(
                    f"The checkpoint of step {best}, which is the best on held-out documents, is damaged; delete it "
                    "and run again with --resume, to take the best of the others."
                )
            self._load_weights(checkpoint)
            progress = Progress.read(checkpoint.folder / "state.json")
            logger.info("final/ is made from step %d, the best on held-out documents", best)
        evaluation = self.evaluator.complete_at(progress.step) or self.evaluator.losses_at(progress.step, complete=True)
        model, adapters = self.model, self.adapters
        if self.sharing.split:  # the main process makes it from another network, which has all the weights
            weights = gathered(self.parameters, self.accelerator.is_main_process)
            if self.accelerator.is_main_process:
                model, adapters = self.plain(weights)
        return Finished(
            self.recipe,
            model,
            adapters,
            self.reader.packer.source,
            0 if self.reader.held_out is None else len(self.reader.held_out.source),
            progress,
            self.folder.step_figures(progress.step),
            evaluation,
            choice,
            early,
        )

    # -- helpers ------------------------------------------------------------------------------------------

    def _log_start(self) -> None:
        schedule = self.reader.schedule
        if schedule and schedule.stages[-1][0] >= self.recipe.optimisation.max_steps:
            first, size = schedule.stages[-1]
            logger.warning("blocks grow to %d at step %d, which this run does not reach", size, first + 1)
        trained = sum(each.numel() for each in self.parameters.values())
        total = sum(each.numel() for each in self.model.network.parameters())
        logger.info(
            "%s %s: %d of %d parameters, %d process(es) of %s, %s, %d threads each",
            self.recipe.kind,
            self.model.name,
            trained,
            total,
            self.accelerator.num_processes,
            self.sharing.kind,
            self.accelerator.device,
            torch.get_num_threads(),
        )

    def _requests(self) -> tuple[bool, bool]:
        """Whether any process got a signal to stop, or to save. All processes must do the same, or they deadlock."""
        stop, save = self._in_any(self.interruption.stop_signal > 0, self.interruption.save_requested)
        self.interruption.save_requested = False
        return stop, save

    def _in_any(self, *flags: bool) -> list[bool]:
        """Each flag, true if it is true in any process."""
        return [count > 0 for count in summed(torch.tensor(flags, dtype=torch.float32), self.accelerator)]

    def _stop_not_finite(self, step: int, loss: float, norm: float) -> NoReturn:
        newest = self.checkpoints.newest()
        kept = f"the checkpoint of step {newest.step} is kept" if newest else "there is no checkpoint yet"
        raise RunError(
            f"The loss of step {step + 1} is {loss:g} and its gradient norm {norm:g}; the run is stopped and {kept}. "
            "Start another run with a lower optimisation.learning_rate or a longer optimisation.warmup.",
            FailureKind.NAN_LOSS,
        )
