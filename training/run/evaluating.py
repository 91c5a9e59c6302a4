"""Evaluations of a training run on held-out documents: MDM and AR loss per token, and acceptance of drafts."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from training.errors import RecipeError
from training.model.base import TrainedModel
from training.objective.noising import Batch, Packed
from training.recipe.recipe import Recipe
from training.run.best_step import best_of, waited
from training.run.draft_acceptance import acceptance_of
from training.run.log_lines import HeldOutEvaluation, HeldOutLosses
from training.run.probing import Prompt, accepted_drafts_safely
from training.run.run_folder import RunFolder
from training.run.step_reader import StepReader, seed_of
from training.run.summing import summed

logger = logging.getLogger(__name__)


class Evaluator:
    """The evaluations of one run, in every process. They are kept in evaluations.jsonl, so a resumed run has them."""

    def __init__(
        self,
        recipe: Recipe,
        model: TrainedModel,
        reader: StepReader,
        folder: RunFolder,
        accelerator: Accelerator,
        objective: nn.Module,
        prompts: list[Prompt],
        together: bool = False,
    ):
        """together: all processes must run the same number of forwards, because each has a part of the network.

        prompts: for the acceptance of self-speculation; empty: it is not measured. Raises RecipeError."""
        self.recipe = recipe
        self.model = model
        self.reader = reader
        self.folder = folder
        self.accelerator = accelerator
        self.objective = objective
        self.prompts = prompts
        self.together = together
        self.found: list[HeldOutEvaluation] = []  # in the order of the steps
        schedule = reader.schedule
        self.last_size = recipe.blocks.b_max if schedule else 1
        self.sizes = sorted({size for _, size in schedule.stages} | {1}) if schedule else [1]
        if recipe.drafts:
            self.sizes = [self.last_size]
        for name in ("best", "patience"):
            if getattr(recipe.saving, name) is not None and reader.held_out is None:
                raise RecipeError(
                    f"saving.{name} needs held-out documents, but the data has too few to hold any out; "
                    "give more data or leave the setting out."
                )

    def run(self, step: int, complete: bool, stopped: Callable[[], bool] | None = None) -> None:
        """Evaluate the weights after a step, and log it: a line of evaluations.jsonl, and figures for the trackers.

        complete: at every block size of the schedule; otherwise only at that of the step and at the last one.
        stopped: asked before every forward; if it is true in any process, the evaluation ends and nothing is logged.
        """
        found = self.losses_at(step, complete, stopped)
        if found is None:
            return
        self.found.append(found)
        if self.accelerator.is_main_process:
            if found.acceptance is not None:
                logger.info("step %d, held-out answers: %s", step, found.acceptance)
            self.folder.log_evaluation(found)
            self.accelerator.log(tracked(found), step=step)

    def losses_at(
        self, step: int, complete: bool, stopped: Callable[[], bool] | None = None
    ) -> HeldOutEvaluation | None:
        """The evaluation of the current weights; None without held-out documents, or if it was stopped, see `run`."""
        rows = self.reader.held_out_rows()
        if not rows:
            return None
        if self.recipe.drafts:
            batches = self._batches(rows, self.last_size, stopped)
            losses, acceptance = acceptance_of(self.objective, batches, self.last_size - 1, self.accelerator)
            return (
                None if self._any(stopped) else HeldOutEvaluation(step, {self.last_size: losses}, acceptance=acceptance)
            )
        schedule = self.reader.schedule
        sizes = self.sizes if complete or not schedule else sorted({schedule.at(max(step - 1, 0)), self.last_size})
        found = {}
        for size in sizes:
            found[size] = evaluate(self.objective, self._batches(rows, size, stopped), self.accelerator)
            if self._any(stopped):
                return None
        accepted = None
        if self.prompts and self.accelerator.is_main_process:
            accepted = accepted_drafts_safely(self.model, self.prompts, step)
        return HeldOutEvaluation(step, found, accepted)

    def _batches(self, rows: list[Packed], size: int, stopped: Callable[[], bool] | None) -> Iterator[Any]:
        """The held-out rows of this process, with the same noise at every evaluation, until it is stopped."""
        seed = seed_of(self.recipe, "evaluation", size, 0)
        own = islice(rows, self.accelerator.process_index, None, self.accelerator.num_processes)
        batches = (self.reader.batch_of(each, size, seed, evaluated=True) for each in own)
        if self.together:
            filler = self.reader.batch_of(rows[0], size, seed, evaluated=True)
            return self._in_step(batches, -(-len(rows) // self.accelerator.num_processes), filler)
        return batches if stopped is None else takewhile(lambda _: not stopped(), batches)

    def _in_step(self, batches: Iterator[Any], count: int, filler: Any) -> Iterator[Any]:
        """The batches, and then forwards of `filler` that are not counted, until there were `count` of both."""
        done = 0
        for done, batch in enumerate(batches, start=1):  # noqa: B007
            yield batch
        forward = self.objective.drafts if self.recipe.drafts else self.objective
        for _ in range(count - done):
            forward(filler.to(self.accelerator.device))

    def _any(self, stopped: Callable[[], bool] | None) -> bool:
        """Whether any process was stopped."""
        return stopped is not None and summed(torch.tensor([float(stopped())]), self.accelerator)[0] > 0

    def read(self) -> None:
        """Read the evaluations of the steps that a resumed run has done."""
        self.found = self.folder.all_evaluations()

    def complete_at(self, step: int) -> HeldOutEvaluation | None:
        """The logged evaluation of a step, if it has every block size."""
        return next((each for each in self.found if each.step == step and set(each.losses) >= set(self.sizes)), None)

    def best(self, saved: set[int]) -> int | None:
        """The best evaluated step of those that are saved."""
        found = best_of([each for each in self.found if each.step in saved], self.last_size)
        return None if found is None else found.step

    @property
    def last_is_best(self) -> bool:
        """Whether no earlier evaluation has a loss as low as that of the last one."""
        best = best_of(self.found, self.last_size)
        return best is not None and best is self.found[-1]

    @property
    def patience_is_over(self) -> bool:
        """Whether the recipe ends the run now, because the last evaluations have not been better."""
        patience = self.recipe.saving.patience
        return patience is not None and waited(self.found, self.last_size) >= patience


def tracked(evaluation: HeldOutEvaluation) -> dict[str, Any]:
    """The figures of an evaluation for the trackers, by name."""
    figures = {}
    for size, losses in evaluation.losses.items():
        figures[f"held_out/loss_mdm_{size}"] = losses.loss_mdm
        figures[f"held_out/loss_ar_{size}"] = losses.loss_ar
    figures["held_out/accepted_drafts"] = evaluation.accepted_drafts
    if (found := evaluation.acceptance) is not None:
        figures["held_out/accepted_run"] = found.accepted_run
        figures["held_out/tokens_per_forward"] = found.tokens_per_forward
        figures |= {f"held_out/right_drafts_{k}": share for k, share in enumerate(found.by_offset, start=1)}
    return {name: value for name, value in figures.items() if value is not None}


@torch.no_grad()
def evaluate(objective: nn.Module, batches: Iterable[Batch], accelerator: Accelerator) -> HeldOutLosses:
    """Mean losses in nats per token, where fill has the weight it has in training.

    batches: those of this process; the means are over all processes.
    """
    was_training = objective.training
    objective.eval()
    sums = torch.zeros(6, dtype=torch.float64)
    try:
        for batch in batches:
            sums += objective(batch.to(accelerator.device)).numbers()
    finally:
        objective.train(was_training)
    mdm_sum, ar_sum, _, scored, weight, _ = summed(sums, accelerator)
    return HeldOutLosses(mdm_sum / weight if weight else None, ar_sum / scored if scored else None)
