"""A table of runs with their final scores. The logs of a run are read again only when they have changed."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from playground.training_tab.seen import stamp
from training.jobs import Jobs, TrainingJob
from training.jobs.notes import read_note
from training.recipe.recipe import Recipe
from training.run.log_lines import HeldOutEvaluation, Probe, StepFigures

HEADERS = (
    *("Name", "Date", "State", "Recipe", "Base", "Steps", "MDM loss", "AR loss", "Held-out loss"),
    *("Accepted run", "Tokens per forward", "Accuracy", "Notes", "Job"),
)
_LOGS = ("metrics.jsonl", "evaluations.jsonl", "probes.jsonl", "recipe.yaml")


class RunTable:
    """The rows of jobs, in the order of HEADERS; the last cell is the job's id."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self._known: dict[str, tuple[tuple, list[str]]] = {}  # by job: the state of its files, and its scores

    def rows(self, jobs: Sequence[TrainingJob]) -> list[list[str]]:
        """One row for each job, in the order given."""
        return [
            [
                *(job.name, _date(job.created), job.state, job.spec.label),
                *self._scores(job),
                *(" ".join(read_note(job.folder).split()), job.id),
            ]
            for job in jobs
        ]

    def _scores(self, job: TrainingJob) -> list[str]:
        state = tuple(stamp(job.run / name) for name in _LOGS)
        known = self._known.get(job.id)
        if known is None or known[0] != state:
            read = (self.jobs.newest_metrics(job.id), self.jobs.evaluations(job.id), self.jobs.probes(job.id))
            known = self._known[job.id] = (state, [_base(job), f"{job.step:,}", *scores(*read)])
        return known[1]


def scores(
    metrics: Sequence[StepFigures], evaluations: Sequence[HeldOutEvaluation], probes: Sequence[Probe]
) -> list[str]:
    """The last losses, held-out loss, accepted run, tokens per forward and accuracy of a run; "-" for what it lacks."""
    last = metrics[-1] if metrics else None
    newest = evaluations[-1] if evaluations else None
    held_out = accepted = None
    if newest is not None and newest.losses:
        at = newest.losses[max(newest.losses)]
        held_out = at.loss_ar if at.loss_mdm is None else at.loss_mdm
    if newest is not None:
        accepted = newest.accepted_drafts if newest.acceptance is None else newest.acceptance.accepted_run
    probe = probes[-1] if probes else None
    per_forward = None if probe is None else probe.tokens_per_forward
    if per_forward is None and newest is not None and newest.acceptance is not None:
        per_forward = newest.acceptance.tokens_per_forward
    accuracy = None if probe is None else probe.accuracy
    return [
        _number(last and (last.loss_mdm or None), ".3f"),
        _number(last and last.loss_ar, ".3f"),
        _number(held_out, ".3f"),
        _number(accepted, ".2f"),
        _number(per_forward, ".2f"),
        _number(accuracy, ".0%"),
    ]


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _base(job: TrainingJob) -> str:
    try:
        base = Recipe.read(str(job.run / "recipe.yaml")).base
    except ValueError:
        return "-"
    return "-" if base is None else Path(base).name if Path(base).is_absolute() else base


def _date(created: str) -> str:
    """A time of the store, which is in UTC, on this machine's clock."""
    try:
        return datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return created
