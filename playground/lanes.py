"""From what a visitor filled in to the lanes of a run, checked on the server whatever the page has checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nbdiff_engine import BlockModel, PromptError, SettingError, generate, prepare
from nbdiff_engine.generate import Job
from playground.frames import lane_frames
from playground.options import Options
from playground.worker import Lane


@dataclass(frozen=True, slots=True)
class Form:
    """A visitor's wishes as they came over the wire: of any type, None where a field was left empty."""

    prompt: Any
    block_size: Any
    threshold: Any
    max_new_tokens: Any
    seed: Any


@dataclass(frozen=True, slots=True)
class LaneKind:
    """A lane that the page offers: its name, its strategy, and which fields of the form it takes."""

    name: str
    strategy: str
    fields: tuple[str, ...]


AR = LaneKind("AR", "ar", ("max_new_tokens", "seed"))
BLOCK_DIFFUSION = LaneKind("Block diffusion", "block_diffusion", ("block_size", "threshold", "max_new_tokens", "seed"))


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request. abouts: one line a lane on how it decodes; note: what the visitor should know, or ""."""

    lanes: Sequence[Lane]
    abouts: Sequence[str]
    note: str


def lane_kinds(model: BlockModel) -> list[LaneKind]:
    """The lanes that a checkpoint can fill."""
    if model.spec is None:
        return [AR]
    return [AR, BLOCK_DIFFUSION] if model.spec.commits_as_ar else [BLOCK_DIFFUSION]


def check(model: BlockModel, form: Form, options: Options) -> Request:
    """Check a form against the server's limits and the checkpoint. Raises NBDiffError, one sentence."""
    if not isinstance(form.prompt, str):
        raise PromptError("The prompt must be text.")
    if len(form.prompt) > options.max_prompt_chars:
        raise PromptError(
            f"The prompt is {len(form.prompt):,} characters long; this server takes at most "
            f"{options.max_prompt_chars:,}."
        )
    kinds = lane_kinds(model)
    jobs = [_job(model, form, kind) for kind in kinds]
    wanted = jobs[0].plan.settings.max_new_tokens
    if wanted > options.max_new_tokens:
        raise SettingError(f"max_new_tokens is {wanted:,}; this server allows at most {options.max_new_tokens:,}.")
    return Request(
        lanes=[Lane(kind.name, partial(lane_frames, job)) for kind, job in zip(kinds, jobs)],
        abouts=[_about(job) for job in jobs],
        note=_note(model, jobs),
    )


def warm_up(model: BlockModel) -> None:
    """Decode a little with every strategy, so that the first run does not pay for what happens only once."""
    for kind in lane_kinds(model):
        generate(model, "Hello", strategy=kind.strategy, max_new_tokens=8, ignore_eos=True)


def _job(model: BlockModel, form: Form, kind: LaneKind) -> Job:
    settings = {field: _given(field, getattr(form, field)) for field in kind.fields}
    return prepare(model, form.prompt, strategy=kind.strategy, **settings)


def _given(field: str, value: Any) -> Any:
    """A field's value; an empty one is what the checkpoint says, where it says something."""
    if value is None and field in ("max_new_tokens", "seed"):
        raise SettingError(f"{field} is empty; give a whole number.")
    if isinstance(value, (list, dict, str)):
        raise SettingError(f"{field} must be a number.")
    return value


def _about(job: Job) -> str:
    settings = job.plan.settings
    if settings.strategy == "ar":
        return "one token per forward"
    return f"blocks of {settings.block_size}, threshold {settings.threshold:g}"


def _note(model: BlockModel, jobs: Sequence[Job]) -> str:
    largest = max(job.plan.settings.block_size for job in jobs)
    if model.spec is not None and largest > model.spec.block_size:
        return f"{model.name} was trained for blocks of {model.spec.block_size}; expect worse text from {largest}."
    return ""
