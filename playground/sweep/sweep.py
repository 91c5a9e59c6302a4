"""A sweep: one prompt, or held-out problems, decoded under a series of settings, most often block sizes.

Block size 1 is AR, and is decoded as AR where the checkpoint commits as AR does; AR always takes part there, as
what the others are compared with. On every problem the settings take turns, and which goes first rotates, so that
a busy moment of the machine slows them alike. Answers are judged outside all timing.

A sweep's frames for the worker: "row", one answer with all that the table needs, and "at", now and then, what is
being decoded, so that a stop is heard in the midst of a long answer.
"""

import csv
import hashlib
import io
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nbdiff_engine import BlockModel, PromptError, SettingError, bundled_models, prepare
from nbdiff_engine.decoding.prompts import encode
from nbdiff_engine.errors import brief, first_problem
from nbdiff_engine.generate import DecodeJob as Job
from nbdiff_engine.tasks import DOMAINS, Problem, Verdict, check, held_out
from nbdiff_engine.token_choice.unmasking import POLICIES
from playground.options import Options
from playground.server.loaded_models import Shelf
from playground.server.worker import Frame, Lane

BLOCK_SIZES = (1, 2, 4, 8, 16, 32)
MOST_SETTINGS = 24
SELF_SPECULATION = "self_speculative"  # may stand among the policies: it is one more way to fill a block
POLICY_CHOICES = (*POLICIES, SELF_SPECULATION)

_AT_SECONDS = 0.2  # between two signs of life
_WARM_TOKENS = 8
_OUTPUT_CHARS = 2000  # of an answer that is shown

Whole = Annotated[int, Field(strict=True)]


class SweepSpec(BaseModel):
    """What a visitor asks for. domain: of the held-out problems; None for the prompt. The series are the models
    times the thresholds, or the policies, or the checkpoint's own policy where neither is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[Annotated[str, Field(max_length=400)], ...]
    block_sizes: tuple[Whole, ...] = BLOCK_SIZES
    thresholds: tuple[float, ...] = ()
    policies: tuple[str, ...] = ()
    prompt: str = ""
    domain: str | None = None
    problems: Whole = 8
    max_new_tokens: Whole = 96

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Check a form. Raises SettingError with one sentence for the first thing that is wrong."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SettingError(first_problem(error).rstrip(".") + ".") from error

    @field_validator("problems", "max_new_tokens", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to decode. series: what tells its line in a figure from the others, "" for an only one."""

    model: BlockModel
    series: str
    block_size: int
    strategy: str
    keywords: dict[str, Any]

    @property
    def label(self) -> str:
        """What the table calls it."""
        if self.strategy == "ar":
            return "1 = AR"
        return str(self.block_size)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A checked sweep. total: answers there will be; note: what the visitor should know, or ""."""

    lanes: Sequence[Lane]
    settings: Sequence[Setting]
    total: int
    note: str


def check_sweep(shelf: Shelf, spec: SweepSpec, options: Options) -> Sweep:
    """Check a sweep against the server's limits and its checkpoints. Raises NBDiffError, one sentence."""
    _check_limits(spec, options)
    problems: list[Problem] | None = None
    if spec.domain is not None:
        problems = held_out(spec.domain, spec.problems)
    models = [shelf.get(name) for name in dict.fromkeys(spec.models)]
    lanes, settings, notes = [], [], []
    for model in models:
        own = _settings(model, spec, several=len(models) > 1)
        asked = [spec.prompt] if problems is None else [problem.prompt for problem in problems]
        prompts = [encode(model, each)[1] for each in asked]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a block beyond training is said in the note
            for setting in own:
                _job(setting, prompts[0])
        if model.spec is not None and max(each.block_size for each in own) > model.spec.block_size:
            trained = model.spec.block_size
            notes.append(f"{model.name} was trained for blocks of {trained}; expect worse text from larger ones.")
        lanes.append(Lane(model.name, partial(_frames, shelf, model, own, prompts, problems, len(settings))))
        settings += own
    if len(settings) > MOST_SETTINGS:
        raise SettingError(f"{len(settings)} settings are asked for; a sweep has at most {MOST_SETTINGS}.")
    count = 1 if problems is None else len(problems)
    return Sweep(lanes, settings, count * len(settings), " ".join(notes))


def _check_limits(spec: SweepSpec, options: Options) -> None:
    """What does not depend on a checkpoint."""
    if not spec.models:
        raise SettingError("No model is chosen; choose at least one.")
    if not spec.block_sizes:
        raise SettingError("No block size is chosen; choose at least one.")
    if spec.thresholds and spec.policies:
        raise SettingError("Thresholds and policies cannot be varied in one sweep; choose one of the two.")
    lines = len(set(spec.models)) * max(len(set(spec.thresholds)), len(set(spec.policies)), 1)
    asked = lines * len(set(spec.block_sizes))
    if asked > 2 * MOST_SETTINGS:  # settings that are the same for all series, AR, are counted once they are made
        raise SettingError(f"{asked} settings are asked for; a sweep has at most {MOST_SETTINGS}.")
    for policy in spec.policies:
        if policy not in POLICY_CHOICES:
            raise SettingError(f"The policy is {brief(policy)}; choose among {', '.join(POLICY_CHOICES)}.")
    if spec.domain is None:
        if not spec.prompt.strip():
            raise PromptError("The prompt is empty; type one, or choose held-out problems.")
        if len(spec.prompt) > options.max_prompt_chars:
            raise PromptError(
                f"The prompt is {len(spec.prompt):,} characters long; this server takes at most "
                f"{options.max_prompt_chars:,}."
            )
    elif spec.domain not in DOMAINS:
        raise SettingError(f"There are no problems of domain {brief(spec.domain)}; there are {', '.join(DOMAINS)}.")
    elif not 1 <= spec.problems <= options.max_problems:
        raise SettingError(f"{spec.problems} problems are asked for; a sweep takes from 1 to {options.max_problems}.")
    if spec.max_new_tokens > options.max_new_tokens:
        raise SettingError(
            f"max_new_tokens is {spec.max_new_tokens:,}; this server allows at most {options.max_new_tokens:,}."
        )


def _settings(model: BlockModel, spec: SweepSpec, several: bool) -> list[Setting]:
    """A model's settings, AR first where it has AR. Raises SettingError where none is left."""
    common = {"max_new_tokens": spec.max_new_tokens, "trace": False}
    name = model.name if several else ""
    has_ar = model.spec is None or model.spec.commits_as_ar
    settings = []
    if has_ar:
        settings.append(Setting(model, name, 1, "ar", {"strategy": "ar", **common}))
    if model.spec is None:
        return settings
    kinds: list[tuple[str, str, dict[str, Any]]] = [("", "block_diffusion", {})]
    if spec.thresholds:
        kinds = [
            (f"threshold {each:g}", "block_diffusion", {"unmasking": "confidence", "threshold": each})
            for each in dict.fromkeys(spec.thresholds)
        ]
    elif spec.policies:
        kinds = [
            ("self-speculation", SELF_SPECULATION, {})
            if each == SELF_SPECULATION
            else (each.replace("_", " "), "block_diffusion", {"unmasking": each})
            for each in dict.fromkeys(spec.policies)
        ]
    for kind, strategy, keywords in kinds:
        series = ", ".join(part for part in (name, kind) if part)
        for size in sorted(set(spec.block_sizes)):
            if size == 1 and has_ar:
                continue
            asked = {"strategy": strategy, "block_size": size, **keywords, **common}
            settings.append(Setting(model, series, size, strategy, asked))
    return settings


# -- decoding ---------------------------------------------------------------------------------------------


def _job(setting: Setting, prompt: Sequence[int], **other: Any) -> Job:
    return prepare(setting.model, list(prompt), **{**setting.keywords, **other})


def _frames(
    shelf: Shelf,
    model: BlockModel,
    settings: Sequence[Setting],
    prompts: Sequence[Sequence[int]],
    problems: Sequence[Problem] | None,
    first: int,
) -> Generator[Frame, None, None]:
    """A model's part of a sweep. problems: None for a visitor's own prompt. first: its first setting's number."""
    run_code = model.name in bundled_models()  # as in an evaluation: a stranger's programs are not run
    heard = time.monotonic()
    with shelf.using(model.name), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for index, setting in enumerate(settings):
            yield {"kind": "at", "setting": first + index, "problem": 0, "warm_up": True}
            for _ in _held(_job(setting, prompts[0], max_new_tokens=_WARM_TOKENS)):
                pass
        for number, prompt in enumerate(prompts):
            verdicts: dict[str, Verdict] = {}
            for turn in range(len(settings)):
                index = (number + turn) % len(settings)
                setting = settings[index]
                job = _job(setting, prompt)
                events = []
                for event in _held(job):
                    events.append(event)
                    if time.monotonic() - heard > _AT_SECONDS:
                        yield {"kind": "at", "setting": first + index, "problem": number}
                        heard = time.monotonic()
                output = job.output(0, events)
                correct = None
                if problems is not None:
                    if output.text not in verdicts:
                        verdicts[output.text] = check(problems[number], output.text, run_code=run_code)
                    correct = verdicts[output.text].correct
                row = {
                    "kind": "row",
                    "setting": first + index,
                    "problem": number,
                    "model": model.name,
                    "series": setting.series,
                    "block_size": setting.block_size,
                    "label": setting.label,
                    "strategy": setting.strategy,
                    "tokens": output.metrics.output_tokens,
                    "forwards": output.metrics.decode_forwards,
                    "seconds": output.metrics.decode_seconds,
                    "correct": correct,
                    # Equal digests are equal token ids; the ids themselves would fill the log of a long sweep.
                    "digest": hashlib.blake2b(repr(output.token_ids).encode(), digest_size=8).hexdigest(),
                }
                yield row if problems is not None else {**row, "output": output.text[:_OUTPUT_CHARS]}
                heard = time.monotonic()


def _held(job: Job) -> Iterator[Any]:
    with closing(job.events()) as events:
        yield from events


# -- what came out ----------------------------------------------------------------------------------------


def table(rows: Iterable[Frame]) -> list[dict[str, Any]]:
    """The figures of each setting, in the order of the settings, from a sweep's "row" frames; others are ignored.

    setting: "1 = AR" or the block size. accuracy: share of the judged answers that are right. tpf, tokens_per_second:
    sums divided, as an evaluation pools them. same_as_ar: share of the answers with AR's very tokens. speed: tokens
    per second over AR's, both over the problems that both have answered. None where there is nothing to divide.
    """
    by_setting: dict[int, dict[int, Frame]] = {}
    baselines: dict[str, dict[int, Frame]] = {}
    for row in rows:
        if row["kind"] != "row":
            continue
        by_setting.setdefault(row["setting"], {})[row["problem"]] = row
        if row["strategy"] == "ar":
            baselines.setdefault(row["model"], {})[row["problem"]] = row
    return [
        _record(list(own.values()), baselines.get(next(iter(own.values()))["model"], {}))
        for _, own in sorted(by_setting.items())
    ]


def _record(rows: Sequence[Frame], ar: dict[int, Frame]) -> dict[str, Any]:
    first = rows[0]
    judged = [row["correct"] for row in rows if row["correct"] is not None]
    both = [(row, ar[row["problem"]]) for row in rows if row["problem"] in ar]
    own, of_ar = _per_second([row for row, _ in both]), _per_second([other for _, other in both])
    record = {
        "model": first["model"],
        "series": first["series"],
        "setting": first["label"],
        "block_size": first["block_size"],
        "strategy": first["strategy"],
        "n": len(rows),
        "accuracy": sum(judged) / len(judged) if judged else None,
        "tpf": _ratio(sum(row["tokens"] - 1 for row in rows), sum(row["forwards"] for row in rows)),
        "tokens_per_second": _per_second(rows),
        "mean_tokens": sum(row["tokens"] for row in rows) / len(rows),
        "same_as_ar": _ratio(sum(row["digest"] == other["digest"] for row, other in both), len(both)),
        "speed": _ratio(own, of_ar) if own is not None and of_ar is not None else None,
    }
    if "output" in first:
        record["output"] = first["output"]
    return record


def _per_second(rows: Sequence[Frame]) -> float | None:
    return _ratio(sum(row["tokens"] - 1 for row in rows), sum(row["seconds"] for row in rows))


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def series_of(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The records by series, by block size; a model's AR is the first point of each of its series."""
    ar = {record["model"]: record for record in records if record["strategy"] == "ar"}
    lines: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["strategy"] != "ar":
            start = [ar[record["model"]]] if record["model"] in ar else []
            lines.setdefault(record["series"], start).append(record)
    alone = {model for model in ar if all(r["model"] != model for line in lines.values() for r in line)}
    lines |= {ar[model]["series"]: [ar[model]] for model in ar if model in alone}
    return {name: sorted(line, key=lambda record: record["block_size"]) for name, line in lines.items()}


def to_csv(records: Sequence[dict[str, Any]]) -> str:
    """The table as CSV, numbers in full, None as nothing. Text that a spreadsheet would run is quoted with '."""
    if not records:
        return ""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: _cell(value) for name, value in record.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
