"""A sweep: one prompt, or held-out problems, decoded with several settings, usually several block sizes.

Block size 1 is AR if the checkpoint commits like AR; then AR always runs, as the baseline. For each
problem, all settings decode one after the other. Each problem starts with another setting, so other load on the machine
affects all settings equally. Answers are checked outside the measured time.
"""

import hashlib
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nbdiff_engine import BlockModel, PromptError, SettingError, bundled_models, prepare
from nbdiff_engine.decoding.plan import BeyondTraining
from nbdiff_engine.decoding.prompts import encode
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import brief, setting_error
from nbdiff_engine.evaluation.answering import DecodeProgress, answers_in_turn
from nbdiff_engine.generate import Output
from nbdiff_engine.tasks import DOMAINS, Problem, Verdict, check, held_out
from nbdiff_engine.token_choice.unmasking import POLICIES
from playground.options import ServerOptions
from playground.request_limits import check_new_tokens, check_prompt_length
from playground.server.loaded_models import LoadedModels
from playground.server.tables import STRATEGY_NAMES
from playground.server.worker import Frame, RunPart
from playground.sweep.sweep_frames import At, SweepAnswer

BLOCK_SIZES = (1, 2, 4, 8, 16, 32)
MOST_SETTINGS = 24
SELF_SPECULATION = "self_speculative"  # a strategy that can be chosen like a policy: it also decodes blocks
POLICY_CHOICES = (*POLICIES, SELF_SPECULATION)

_AT_SECONDS = 0.2  # at least this long between two At frames
_WARM_TOKENS = 8
_OUTPUT_CHARS = 2000  # of an answer on the page
_JUDGED_CHARS = 400  # of one of many answers

Whole = Annotated[int, Field(strict=True)]


class SweepSpec(BaseModel):
    """A request for a sweep. domain: of the held-out problems; None: the prompt is decoded.

    There is one series for each model and each threshold or policy; without these, one for each model, with the
    checkpoint's policy. self_speculation: whether that is a series too, beside block diffusion.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[Annotated[str, Field(max_length=400)], ...]
    block_sizes: tuple[Whole, ...] = BLOCK_SIZES
    thresholds: tuple[float, ...] = ()
    policies: tuple[str, ...] = ()
    self_speculation: bool = False
    prompt: str = ""
    domain: str | None = None
    problems: Whole = 8
    max_new_tokens: Whole = 96

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Check a form. Raises SettingError with one sentence for the first error."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise setting_error(error) from error

    @field_validator("problems", "max_new_tokens", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, slots=True)
class SweepSetting:
    """One setting of a sweep. series: the name of its line in the figures, "" if there is only one line."""

    model: BlockModel
    series: str
    block_size: int
    strategy: str
    decode_settings: DecodeSettings

    @property
    def label(self) -> str:
        """Its name in the table."""
        if self.strategy == "ar":
            return "1 = AR"
        return str(self.block_size)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A checked sweep, one part for each model. prompts: one for each problem; total: the number of answers; note: for
    the visitor, or ""."""

    parts: Sequence[RunPart]
    settings: Sequence[SweepSetting]
    prompts: Sequence[str | list[dict[str, str]]]
    total: int
    note: str


def check_sweep(
    loaded: LoadedModels, spec: SweepSpec, options: ServerOptions, own: Sequence[Problem] | None = None
) -> Sweep:
    """Check a sweep against the limits of the server and the checkpoints. Raises NBDiffError, one sentence.

    own: problems of the visitor; the first `spec.problems` of them replace the held-out ones.
    """
    _check_limits(spec, options, has_own=own is not None)
    problems: Sequence[Problem] | None = None
    if own is not None:
        problems = own[: spec.problems]
    elif spec.domain is not None:
        problems = held_out(spec.domain, spec.problems)
    questions = [spec.prompt] if problems is None else [problem.prompt for problem in problems]
    models = [loaded.get(name) for name in dict.fromkeys(spec.models)]
    parts, settings, notes = [], [], []
    for model in models:
        own = _settings(model, spec, several=len(models) > 1)
        prompts = [encode(model, each)[1] for each in questions]
        jobs = [prepare(model, prompts[0], **setting.decode_settings.model_dump(exclude_unset=True)) for setting in own]
        for note in [each for job in jobs for each in job.plan.notes][:1]:
            if isinstance(note, BeyondTraining):
                text = f"{note.model} was trained for blocks of {note.trained}; expect worse text from larger ones"
            else:
                text = str(note)
            notes.append(f"{text[0].upper()}{text[1:]}.")
        parts.append(RunPart(model.name, partial(_frames, loaded, model, own, prompts, problems, len(settings))))
        settings += own
    if len(settings) > MOST_SETTINGS:
        raise SettingError(f"{len(settings)} settings are requested; a sweep has at most {MOST_SETTINGS}.")
    count = 1 if problems is None else len(problems)
    return Sweep(parts, settings, questions, count * len(settings), " ".join(notes))


def _check_limits(spec: SweepSpec, options: ServerOptions, has_own: bool) -> None:
    """Check the limits that do not depend on a checkpoint. Raises NBDiffError, one sentence."""
    if not spec.models:
        raise SettingError("No model is chosen; choose at least one.")
    if not spec.block_sizes:
        raise SettingError("No block size is chosen; choose at least one.")
    if spec.thresholds and spec.policies:
        raise SettingError("A sweep can compare thresholds or policies, not both; choose one of the two.")
    lines = len(set(spec.models)) * max(len(set(spec.thresholds)), len(set(spec.policies)), 1)
    count = lines * len(set(spec.block_sizes))
    if count > 2 * MOST_SETTINGS:  # AR is in every series here; check_sweep counts it once
        raise SettingError(f"{count} settings are requested; a sweep has at most {MOST_SETTINGS}.")
    for policy in spec.policies:
        if policy not in POLICY_CHOICES:
            raise SettingError(f"The policy is {brief(policy)}; choose one of {', '.join(POLICY_CHOICES)}.")
    if spec.domain is None and not has_own:
        if not spec.prompt.strip():
            raise PromptError("The prompt is empty; write one, or choose held-out problems.")
        check_prompt_length(len(spec.prompt), options)
    elif not has_own and spec.domain not in DOMAINS:
        raise SettingError(f"There are no problems of domain {brief(spec.domain)}; there are {', '.join(DOMAINS)}.")
    elif not 1 <= spec.problems <= options.max_problems:
        raise SettingError(
            f"{brief(spec.problems)} problems are requested; a sweep takes from 1 to {options.max_problems}."
        )
    check_new_tokens(spec.max_new_tokens, options)


def _settings(model: BlockModel, spec: SweepSpec, several: bool) -> list[SweepSetting]:
    """The settings of a model, AR first if it can decode AR. Raises SettingError for a wrong value."""
    common = {"max_new_tokens": spec.max_new_tokens, "trace": False}
    name = model.name if several else ""
    has_ar = model.spec is None or model.spec.commits_as_ar
    settings = []
    if has_ar:
        settings.append(SweepSetting(model, name, 1, "ar", DecodeSettings.of(strategy="ar", **common)))
    if model.spec is None:
        return settings
    drafted = (STRATEGY_NAMES[SELF_SPECULATION].lower(), SELF_SPECULATION, {})
    kinds: list[tuple[str, str, dict[str, Any]]] = [("", "block_diffusion", {})]
    if model.drafts and not spec.policies:  # made for that alone
        kinds = [drafted]
    elif spec.thresholds:
        kinds = [
            (f"threshold {each:g}", "block_diffusion", {"unmasking": "confidence", "threshold": each})
            for each in dict.fromkeys(spec.thresholds)
        ]
    elif spec.policies:
        kinds = [
            drafted if each == SELF_SPECULATION else (each.replace("_", " "), "block_diffusion", {"unmasking": each})
            for each in dict.fromkeys(spec.policies)
        ]
    if spec.self_speculation and has_ar and drafted not in kinds:
        kinds = [(kind or STRATEGY_NAMES["block_diffusion"].lower(), *rest) for kind, *rest in kinds] + [drafted]
    for kind, strategy, keywords in kinds:
        series = ", ".join(part for part in (name, kind) if part)
        for size in sorted(set(spec.block_sizes)):
            if size == 1 and has_ar:
                continue
            decode_settings = DecodeSettings.of(strategy=strategy, block_size=size, **keywords, **common)
            settings.append(SweepSetting(model, series, size, strategy, decode_settings))
    return settings


# -- decoding ---------------------------------------------------------------------------------------------


def _frames(
    loaded: LoadedModels,
    model: BlockModel,
    settings: Sequence[SweepSetting],
    prompts: Sequence[Sequence[int]],
    problems: Sequence[Problem] | None,
    first: int,
) -> Generator[Frame, None, None]:
    """The part of one model. problems: None if a prompt is decoded. first: the number of the model's first setting."""
    run_code = model.name in bundled_models()  # as in an evaluation: programs of other models are not run
    verdicts: dict[tuple[int, str], Verdict] = {}
    reported = time.monotonic()
    answers = answers_in_turn(
        model, [each.decode_settings for each in settings], [[each] for each in prompts], warm_up_tokens=_WARM_TOKENS
    )
    with loaded.using(model.name), closing(answers):
        for each in answers:
            number = first + each.setting
            if isinstance(each, DecodeProgress):
                if each.warm_up:
                    if each.events == 0:
                        yield At(number, 0, warm_up=True)
                elif time.monotonic() - reported > _AT_SECONDS:
                    yield At(number, each.batch)
                    reported = time.monotonic()
                continue
            (output,) = each.outputs
            correct = None
            if problems is not None:
                known = (each.batch, output.text)
                if known not in verdicts:
                    verdicts[known] = check(problems[each.batch], output.text, run_code=run_code)
                correct = verdicts[known].correct
            yield _answer(settings[each.setting], number, each.batch, output, correct)
            reported = time.monotonic()


def _answer(setting: SweepSetting, number: int, problem: int, output: Output, correct: bool | None) -> SweepAnswer:
    return SweepAnswer(
        setting=number,
        problem=problem,
        model=setting.model.name,
        series=setting.series,
        block_size=setting.block_size,
        label=setting.label,
        strategy=setting.strategy,
        metrics=output.metrics,
        correct=correct,
        digest=hashlib.blake2b(repr(output.token_ids).encode(), digest_size=8).hexdigest(),
        output=output.text[: _OUTPUT_CHARS if correct is None else _JUDGED_CHARS],
    )
