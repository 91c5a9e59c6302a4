"""From a RunSpec to the lanes that the worker decodes, within the limits of the server."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from nbdiff_engine import NBDiffError, PromptError, SettingError
from nbdiff_engine.decoding.plan import BeyondTraining
from nbdiff_engine.decoding.settings import STRATEGIES
from nbdiff_engine.errors import ServerError
from nbdiff_engine.trace.events import DecodeEvent
from playground.options import ServerOptions
from playground.race.frames import lane_frames
from playground.race.run_spec import LaneSpec, RunSpec
from playground.race.stage import LaneTitle
from playground.request_limits import check_new_tokens, check_prompt_length
from playground.server.lane_models import LaneJob, LaneModel, LaneModels
from playground.server.tables import STRATEGY_NAMES
from playground.server.worker import Frame, RunPart


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A checked run. parts, titles, jobs: one for each lane; note: a sentence for the visitor, or ""."""

    parts: Sequence[RunPart]
    titles: Sequence[LaneTitle]
    jobs: Sequence[LaneJob]
    note: str


def strategies(model: LaneModel) -> list[str]:
    """The strategies that can decode this checkpoint."""
    if model.spec is None:
        return ["ar"]
    return list(STRATEGIES) if model.spec.commits_as_ar else ["block_diffusion"]


def why_only_ar(model: LaneModel) -> str:
    """Why a checkpoint cannot decode blocks, as a sentence; "" if it can."""
    if model.spec is not None:
        return ""
    return f"{model.name} decodes one token per forward: it was not trained to fill in blocks of tokens."


def lane_for(model: LaneModel) -> LaneSpec:
    """A lane for a checkpoint, with the strategy that shows what it was trained for."""
    if model.spec is None:
        return LaneSpec(model=model.name, strategy="ar")
    if model.drafts:
        return LaneSpec(model=model.name, strategy="self_speculative")
    return LaneSpec(model=model.name, strategy="block_diffusion", block_size=model.spec.block_size, skip_after_eos=True)


def check(loaded: LaneModels, spec: RunSpec, options: ServerOptions) -> CheckedRun:
    """Check a run against the limits of the server and the checkpoints. Raises NBDiffError, one sentence."""
    check_limits(spec, options)
    running = spec.running
    jobs = [_checked_job(loaded, spec, number) for number, lane in enumerate(spec.lanes) if lane.on]
    titles = [LaneTitle(name, about(job)) for name, job in zip(_names(running, jobs), jobs, strict=True)]
    parts = [RunPart(title.name, partial(guarded, loaded, job, title)) for title, job in zip(titles, jobs, strict=True)]
    return CheckedRun(parts, titles, jobs, _note(jobs))


def check_limits(spec: RunSpec, options: ServerOptions) -> None:
    """Check the limits that do not depend on a checkpoint. Raises NBDiffError, one sentence."""
    if not spec.running:
        raise SettingError("No lane is switched on; switch on at least one.")
    if len(spec.lanes) > options.max_lanes:
        raise SettingError(f"{len(spec.lanes)} lanes are requested; this server allows at most {options.max_lanes}.")
    length = len(spec.prompt) + sum(len(turn.content) for turn in spec.history)
    check_prompt_length(length, options, with_turns=bool(spec.history))
    check_new_tokens(spec.max_new_tokens, options)


def guarded(
    loaded: LaneModels, job: LaneJob, title: LaneTitle, events: Callable[[], Iterator[DecodeEvent]] | None = None
) -> Generator[Frame, None, None]:
    """The frames of a lane. Its model stays loaded meanwhile, is warmed up, and uses its fastest number of threads."""
    guarded_warm_up(loaded, job.model.name)
    with loaded.using(job.model.name):
        yield from lane_frames(title.name, title.about, job, events)


def guarded_warm_up(loaded: LaneModels, name: str) -> None:
    """Warm up a model if it has not decoded yet."""
    with loaded.using(name) as model:
        if name not in loaded.warm:
            warm_up(model, partial(loaded.prepare, name))
            loaded.warm.add(name)


def warm_up(model: LaneModel, prepare: Callable[..., LaneJob]) -> None:
    """Decode a few tokens with every strategy, so that the times of the first run do not include one-time costs."""
    for strategy in strategies(model):
        for _ in prepare("Hello", strategy=strategy, max_new_tokens=8, ignore_eos=True).events():
            pass


def about(job: LaneJob) -> str:
    """The settings of a lane in one line."""
    return ", ".join(_settings_in_words(job))


def _settings_in_words(job: LaneJob) -> list[str]:
    settings = job.plan.settings
    words = [job.model.name]
    if settings.strategy == "ar":
        words.append("one token per forward")
    else:
        words.append(f"blocks of {settings.block_size}")
        if settings.strategy == "block_diffusion" or settings.draft_steps > 1:
            policy = job.plan.policy
            words.append(policy.describe(getattr(settings, policy.setting)))
        if settings.strategy == "self_speculative":
            words.append("drafted in one pass" if settings.draft_steps == 1 else f"{settings.draft_steps} draft passes")
        elif settings.sub_block_size and settings.sub_block_size < settings.block_size:
            words.append(f"sub-blocks of {settings.sub_block_size}")
    if settings.temperature:
        words += [f"temperature {settings.temperature:g}", f"seed {settings.seed}"]
    return words


def _checked_job(loaded: LaneModels, spec: RunSpec, index: int) -> LaneJob:
    lane = spec.lanes[index]
    try:
        return _job(loaded, spec, lane)
    except (PromptError, ServerError):
        raise  # of all lanes, not of this one
    except NBDiffError as error:
        error.field = ("lanes", index, *error.field)
        raise


def _job(loaded: LaneModels, spec: RunSpec, lane: LaneSpec) -> LaneJob:
    prompt = spec.prompt
    if spec.history and not spec.raw and spec.prompt.strip():
        turns = [turn.model_dump() for turn in spec.history]
        prompt = [*turns, {"role": "user", "content": spec.prompt}]
    return loaded.prepare(
        lane.model,
        prompt,
        raw=spec.raw,
        max_new_tokens=spec.max_new_tokens,
        ignore_eos=spec.ignore_eos,
        **lane.settings(),
    )


def _names(lanes: Sequence[LaneSpec], jobs: Sequence[LaneJob]) -> list[str]:
    """Unique names of the lanes: the strategy and, if several lanes share it, the settings that differ."""
    plain = [STRATEGY_NAMES[lane.strategy] for lane in lanes]
    settings = [_settings_in_words(job) for job in jobs]
    counts = Counter(plain)
    names: list[str] = []
    for name, words in zip(plain, settings, strict=True):
        if counts[name] > 1:
            common = set.intersection(*(set(each) for other, each in zip(plain, settings) if other == name))
            name = f"{name}: {', '.join(each for each in words if each not in common) or 'the same'}"
        while name in names:
            name += " again"
        names.append(name)
    return names


def _note(jobs: Sequence[LaneJob]) -> str:
    for note in (each for job in jobs for each in job.plan.notes):
        if isinstance(note, BeyondTraining):
            return f"{note.model} was trained for blocks of {note.trained}; expect worse text from {note.block_size}."
        text = str(note)
        return f"{text[0].upper()}{text[1:]}."
    return ""
