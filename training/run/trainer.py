"""The training loop: one short loop on accelerate.Accelerator for pretraining and for adaptation.

Everything random in a step comes from (seed, step, micro-batch), and everything read from the data comes from a
cursor. So a run that resumes from a checkpoint goes through the very losses of an unbroken one, and a step on two
processes is the step on one with twice the accumulation.
"""

import json
import logging
import math
import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from tqdm import tqdm

from nbdiff_engine.model.attention import PADDING
from training.data.documents import DocumentSource
from training.data.packing import Cursor, Packer
from training.errors import RunError
from training.failure_kind import FailureKind
from training.model.adapters import merged
from training.model.base import TrainedModel
from training.objective.noising import Batch, Noising, noise
from training.objective.objective import Objective
from training.recipe.recipe import Recipe
from training.run.checkpointing import CheckpointStore, load_optimizer, publish, save_optimizer
from training.run.evaluating import evaluate, summed
from training.run.interruption import Interruption
from training.run.machine import peak_memory, require_compiler
from training.run.optimizers import make_optimizers, rate_at
from training.run.probing import probe_safely, probes_by_default
from training.run.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run must know to go on: kept in a checkpoint's state.json."""

    step: int = 0  # steps done
    cursor: Cursor = field(default_factory=Cursor)
    tokens_seen: int = 0  # clean tokens, padding left out
    seconds: float = 0.0  # of training, over all sessions, evaluation and saving left out
    rows_per_step: int = 0  # of all processes: a resumed run must read as many

    @classmethod
    def read(cls, path: Path) -> "Progress":
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "cursor": Cursor(**fields["cursor"])})


@dataclass(frozen=True, slots=True)
class Step:
    """What one step trains on."""

    batches: list[Batch]  # micro-batches of all processes; process p takes p, p + processes, ...
    block_size: int
    target_count: int  # the normaliser of both losses, at least 1
    tokens: int  # clean tokens, padding left out
    cursor: Cursor  # where the next step reads


class Trainer:
    """One run. Made once per process; every process of a distributed run makes the same one."""

    def __init__(
        self,
        recipe: Recipe,
        model: TrainedModel,
        train: DocumentSource,
        held_out: DocumentSource | None,
        folder: RunFolder,
        accelerator: Accelerator,
        adapters: Any = None,
    ):
        """adapters: the PeftModel around `model.network` where LoRA is trained, which can merge it."""
        self.recipe = recipe
        self.model = model
        self.adapters = adapters
        self.folder = folder
        self.accelerator = accelerator
        self.interruption = Interruption()
        steps = recipe.optimisation
        self.schedule = recipe.blocks.over(steps.max_steps) if recipe.kind == "adapt" else None
        length = min(steps.packed_length, model.context_length)
        if length < steps.packed_length:
            logger.info("packed length cut from %d to %d, the context of %s", steps.packed_length, length, model.name)
        largest = recipe.blocks.b_max if self.schedule else 1
        self.packer = Packer(train, length, recipe.seed, largest)
        self.held_out = None
        if held_out is not None and len(held_out):
            self.held_out = Packer(held_out, length, recipe.seed, largest)
        self.parameters = {name: each for name, each in model.network.named_parameters() if each.requires_grad}
        self.objective = Objective(model.network, recipe.objective.context)
        if steps.gradient_checkpointing:
            model.network.activation_checkpointing_enable()
        if recipe.compile:
            require_compiler(accelerator.device)
            self.objective.body.compile(dynamic=True)
        self.wrapped = accelerator.prepare(self.objective)
        self.optimizers = make_optimizers(steps, self.parameters)
        self.rows_per_step = steps.rows * steps.accumulation * accelerator.num_processes
        wanted = recipe.saving.probes
        self.probes = probes_by_default(model) if wanted is None else wanted
        self.checkpoints = CheckpointStore(folder.checkpoints, recipe.saving.keep)
        # One thread reads everything: it packs a step's rows while the step before is computed.
        self.reader = ThreadPoolExecutor(1, "batches")
        self.ahead: Future[Step] | None = None
        self.progress = Progress()

    # -- the loop ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end, and write `final/`. Raises RunError where the run cannot go on."""
        recipe, steps, main = self.recipe, self.recipe.optimisation, self.accelerator.is_main_process
        if main:
            self._announce()
        bar = tqdm(
            total=steps.max_steps,
            initial=self.progress.step,
            unit="step",
            disable=not main,
            mininterval=1.0,
            desc=recipe.kind,
        )
        with self.interruption, self.reader, bar:
            while self.progress.step < steps.max_steps:
                figures = self._step()
                done = self.progress.step
                if main and (done % recipe.saving.log_every == 0 or done == steps.max_steps):
                    self.folder.log(figures)
                    self.accelerator.log({k: v for k, v in figures.items() if k != "step"}, step=done)
                bar.set_postfix(loss=f"{figures['loss']:.3f}", block=figures["block_size"], refresh=False)
                bar.update()
                last = done == steps.max_steps
                if last or (recipe.saving.eval_every and done % recipe.saving.eval_every == 0):
                    self.evaluate()
                stopped, saving = self._asked()
                if last or stopped or saving or done % recipe.saving.save_every == 0:
                    self.save()
                if stopped and not last:
                    raise self.interruption.as_exit(done)
        if self.packer.cut:
            logger.warning("%d documents were longer than the packed length and lost their end", self.packer.cut)
        if self.packer.refused:
            logger.warning("%d times a document could not be used and was left out", self.packer.refused)
        self._write_final()

    def _step(self) -> dict[str, Any]:
        """One optimiser step; its line of metrics.jsonl."""
        started = time.perf_counter()
        steps, step = self.recipe.optimisation, self.progress.step
        fraction = step / steps.max_steps
        ar_weight = self._ar_weight(fraction)
        now = self._take()
        count = now.target_count
        rate = rate_at(steps, step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        torch.manual_seed(self._key("dropout", step, self.accelerator.process_index))
        sums = torch.zeros(4, dtype=torch.float64)  # mdm sum, ar sum, masked tokens, ar targets
        own = now.batches[self.accelerator.process_index :: self.accelerator.num_processes]
        for number, batch in enumerate(own):
            last = number == len(own) - 1
            part = number * self.accelerator.num_processes + self.accelerator.process_index
            with self._synchronising_only(last):
                losses = self.wrapped(batch.to(self.accelerator.device), self._open_future(batch, fraction, step, part))
                loss = (losses.mdm_sum + ar_weight * losses.ar_sum) / count
                # A distributed wrapper averages gradients over processes; the loss is a sum over them.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            sums += losses.numbers()
        mdm_sum, ar_sum, masked, _ = summed(sums, self.accelerator)
        total = (mdm_sum + ar_weight * ar_sum) / count
        norm = float(self.accelerator.clip_grad_norm_(self.parameters.values(), steps.clip or math.inf))
        if not (math.isfinite(total) and math.isfinite(norm)):
            self._refuse_to_go_on(step, total, norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        seen = self.progress.tokens_seen + now.tokens
        self.progress = Progress(step + 1, now.cursor, seen, self.progress.seconds + seconds, self.rows_per_step)
        return {
            "step": step + 1,
            "loss": total,
            "loss_mdm": mdm_sum / count,
            "loss_ar": ar_sum / count,
            "block_size": now.block_size,
            "lr": rate,
            "ar_weight": ar_weight,
            "masked_tokens": int(masked),
            "gradient_norm": norm,
            "tokens_seen": self.progress.tokens_seen,
            "tokens_per_second": now.tokens / seconds,
            "seconds": self.progress.seconds,
            "peak_memory": peak_memory(self.accelerator.device),
        }

    def _take(self) -> "Step":
        """What this step trains on; the next one's is begun at once, behind the step's own arithmetic."""
        step, steps = self.progress.step, self.recipe.optimisation.max_steps
        ahead = self.ahead or self.reader.submit(self._read, step, self.progress.cursor)
        now = ahead.result()
        self.ahead = self.reader.submit(self._read, step + 1, now.cursor) if step + 1 < steps else None
        return now

    def _read(self, step: int, cursor: Cursor) -> "Step":
        """The micro-batches of a step, for all processes."""
        steps = self.recipe.optimisation
        block_size = self.schedule.at(step) if self.schedule else 1
        number = steps.accumulation * self.accelerator.num_processes
        packed, cursor = self.packer.batch(cursor, self.rows_per_step)
        how = self.noising(block_size)
        batches = []
        for part in range(number):
            rows = packed.rows(part * steps.rows, (part + 1) * steps.rows)
            draw = torch.Generator().manual_seed(self._key("noise", step, part))
            batches.append(noise(rows, how, draw, self.recipe.objective.context))
        count = max(1, sum(each.target_count for each in batches))
        return Step(batches, block_size, count, int((packed.document != PADDING).sum()), cursor)

    def noising(self, block_size: int) -> Noising:
        """How this run noises blocks of a size; pretraining is block size 1, where there is nothing to noise."""
        objective = self.recipe.objective
        return Noising(
            block_size=block_size,
            mask_token_id=self.model.spec.mask_token_id if self.model.spec else 0,
            shift=int(objective.token_shift),
            at_least_one=objective.at_least_one_mask,
            complementary=objective.complementary_masks,
            ending_ids=frozenset(self.model.eos_token_ids),
            # FlexAttention is compiled for a length: the fewer there are, the better.
            multiple=128 if self.accelerator.device.type == "cuda" else 1,
        )

    def _ar_weight(self, fraction: float) -> float:
        """lambda at a fraction of the run."""
        if self.recipe.kind == "pretrain":
            return 1.0
        objective = self.recipe.objective
        end = objective.ar_weight if objective.ar_weight_end is None else objective.ar_weight_end
        return objective.ar_weight + (end - objective.ar_weight) * fraction

    def _open_future(self, batch: Batch, fraction: float, step: int, part: int) -> torch.Tensor | None:
        """For the mask-annealing ablation: which keys are seen from before them; None once all are."""
        share = self.recipe.objective.mask_annealing
        if share == 0 or fraction >= share or self.schedule is None:
            return None
        draw = torch.Generator().manual_seed(self._key("anneal", step, part))
        return (torch.rand(batch.ids.shape, generator=draw) < fraction / share).to(self.accelerator.device)

    # -- evaluation, checkpoints, the end -----------------------------------------------------------------

    def evaluate(self) -> None:
        """Both losses on held-out documents, for every block size of the schedule, as a line of evaluations.jsonl."""
        if self.held_out is None:
            return
        sizes = sorted({size for _, size in self.schedule.stages} | {1}) if self.schedule else [1]
        documents = min(self.recipe.data.held_out, len(self.held_out.source))
        rows = self.reader.submit(lambda: list(self.held_out.all_rows(documents))).result()
        found = {}
        for size in sizes:
            draw = torch.Generator().manual_seed(self._key("evaluation", size, 0))
            noised = [noise(each, self.noising(size), draw, self.recipe.objective.context) for each in rows]
            mine = islice(noised, self.accelerator.process_index, None, self.accelerator.num_processes)
            found[size] = evaluate(self.objective, mine, self.accelerator)
        if self.accelerator.is_main_process:
            self.folder.log_evaluation({"step": self.progress.step, "losses": {str(k): v for k, v in found.items()}})

    def save(self) -> None:
        """A checkpoint of this very moment, whole or not at all."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            names = {id(each): name for name, each in self.parameters.items()}

            def write(folder: Path) -> None:
                if self.adapters is None:
                    self.model.save(folder)
                else:
                    self.folder.save_tensors(folder / "trained.safetensors", self.parameters)
                save_optimizer(folder / "optimizer.safetensors", self.optimizers, names)
                (folder / "state.json").write_text(json.dumps(asdict(self.progress)) + "\n", encoding="utf-8")

            self.checkpoints.save(self.progress.step, write)
            if self.probes:
                probe_safely(self.folder, self.model, self.progress.step)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, or from the start where there is none."""
        newest = self.checkpoints.newest()
        if newest is None:
            logger.warning("no whole checkpoint in %s: starting from the beginning", self.folder.path)
            self._forget()
            return
        name = "model.safetensors" if self.adapters is None else "trained.safetensors"
        self.folder.load_tensors(newest.folder, name, self.parameters)
        load_optimizer(newest.folder / "optimizer.safetensors", self.optimizers, self.parameters)
        progress = Progress.read(newest.folder / "state.json")
        if progress.rows_per_step != self.rows_per_step:
            raise RunError(
                f"The run in {self.folder.path} read {progress.rows_per_step} rows a step, and on "
                f"{self.accelerator.num_processes} process(es) it would read {self.rows_per_step}; "
                "resume it on as many processes as it was started on."
            )
        self.progress = progress
        if self.accelerator.is_main_process:
            self.checkpoints.drop_after(newest)
        self._forget()
        logger.info("resuming after step %d", self.progress.step)

    def _forget(self) -> None:
        """Drop what the logs say of steps that are to come again."""
        if self.accelerator.is_main_process:
            self.folder.forget_after(self.progress.step)
        self.accelerator.wait_for_everyone()

    def _write_final(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            model = self.model
            if self.adapters is not None:
                model = replace(model, network=merged(self.adapters, model, self.recipe, self._final_dtype()))

            def write(folder: Path) -> None:
                model.save(folder, self._final_dtype())
                self.folder.write_card(folder, self.recipe, model, self.progress)

            try:
                publish(self.folder.final, write)
            except OSError as error:
                raise RunError(
                    f"The finished model cannot be written to {self.folder.final}: {error.strerror or error}; its last "
                    "checkpoint is whole. Make room and run again with --resume."
                ) from error
            logger.info("finished: %s", self.folder.final)
        self.accelerator.wait_for_everyone()

    def _final_dtype(self) -> torch.dtype:
        return self.model.dtype if self.recipe.save_dtype == "auto" else getattr(torch, self.recipe.save_dtype)

    # -- small matters ------------------------------------------------------------------------------------

    def _announce(self) -> None:
        if self.schedule and self.schedule.stages[-1][0] >= self.recipe.optimisation.max_steps:
            first, size = self.schedule.stages[-1]
            logger.warning("blocks grow to %d at step %d, which this run does not reach", size, first + 1)
        trained = sum(each.numel() for each in self.parameters.values())
        whole = sum(each.numel() for each in self.model.network.parameters())
        logger.info(
            "%s %s: %d of %d parameters, %d process(es) of %s, %s, %d threads each",
            self.recipe.kind,
            self.model.name,
            trained,
            whole,
            self.accelerator.num_processes,
            self.accelerator.distributed_type.value,
            self.accelerator.device,
            torch.get_num_threads(),
        )

    def _key(self, purpose: str, step: int, part: int) -> int:
        return random.Random(f"{self.recipe.seed}/{purpose}/{step}/{part}").getrandbits(62)

    def _synchronising_only(self, last: bool) -> AbstractContextManager:
        """Processes exchange gradients once a step, in the backward pass of its last micro-batch."""
        return nullcontext() if last else self.accelerator.no_sync(self.wrapped)

    def _asked(self) -> tuple[bool, bool]:
        """Whether any process was told to stop, or to save: all do it together, or would wait for it for ever."""
        asked = torch.tensor([float(self.interruption.asked), float(self.interruption.save)])
        self.interruption.save = False
        stop, save = summed(asked, self.accelerator)
        return stop > 0, save > 0

    def _refuse_to_go_on(self, step: int, loss: float, norm: float) -> NoReturn:
        newest = self.checkpoints.newest()
        kept = f"the checkpoint of step {newest.step} is kept" if newest else "there is no checkpoint yet"
        raise RunError(
            f"The loss of step {step + 1} is {loss:g} and its gradient's norm {norm:g}; the run is stopped and {kept}. "
            "Start another run with a lower optimisation.learning_rate or a longer optimisation.warmup.",
            FailureKind.NAN_LOSS,
        )
