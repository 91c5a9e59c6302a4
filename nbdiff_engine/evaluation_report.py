"""What an evaluation found: figures pooled over prompts, paired comparisons, and both as JSON or a table."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.events import FinishReason
from nbdiff_engine.metrics import Metrics
from nbdiff_engine.paired import difference_interval, mcnemar_p

OVERALL = "all"  # what the table calls the figures over every domain


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt answered under one setting. correct: None where nobody judged it."""

    token_ids: list[int]
    finish_reason: FinishReason
    metrics: Metrics
    correct: bool | None

    @property
    def seconds(self) -> float:
        """Engine work from the call to the last token."""
        return self.metrics.prefill_seconds + self.metrics.decode_seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures pooled over the answers to `n` prompts: sums are divided, never rates averaged."""

    n: int
    judged: int
    accuracy: float | None  # share of the judged answers that are right
    tokens_per_forward: float | None  # sum of (output tokens - 1) / sum of decode forwards
    tokens_per_second: float | None  # the same numerator / sum of decode seconds
    mean_output_tokens: float
    seconds: float  # prefill and decode, summed
    drafted: int | None  # self-speculation alone
    accepted: int | None
    cut_by_length: float  # share of answers that the length limit ended

    @classmethod
    def pooled(cls, answers: Sequence[Answer], speculative: bool) -> "Figures":
        """The figures of at least one answer. speculative: whether drafts were put to verification."""
        metrics = [each.metrics for each in answers]
        judged = [each.correct for each in answers if each.correct is not None]
        tokens = sum(each.output_tokens for each in metrics)
        forwards = sum(each.decode_forwards for each in metrics)
        seconds = sum(each.decode_seconds for each in metrics)
        return cls(
            n=len(answers),
            judged=len(judged),
            accuracy=sum(judged) / len(judged) if judged else None,
            tokens_per_forward=(tokens - len(answers)) / forwards if forwards else None,
            tokens_per_second=(tokens - len(answers)) / seconds if forwards and seconds > 0 else None,
            mean_output_tokens=tokens / len(answers),
            seconds=sum(each.seconds for each in answers),
            drafted=sum(each.drafted for each in metrics) if speculative else None,
            accepted=sum(each.accepted for each in metrics) if speculative else None,
            cut_by_length=sum(each.finish_reason == FinishReason.LENGTH for each in answers) / len(answers),
        )


@dataclass(frozen=True, slots=True)
class SettingReport:
    """One model under one setting. settings: all of them, with what the checkpoint's spec filled in."""

    setting: str
    settings: dict[str, Any]
    overall: Figures
    domains: dict[str, Figures]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model under all its settings. code_run: whether its programs were to be run, and so judged.

    not_judged: why not, for the first answer that was not judged; None where all were.
    """

    name: str
    parameters: int
    dtype: str
    device: str
    threads: int
    code_run: bool
    not_judged: str | None
    results: tuple[SettingReport, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an output leaves that of AR for the first time.

    logit_gap: how far apart AR's two best tokens are there; near zero, rounding alone may have decided. None
    where the outputs are sampled, or where one of them just ends.
    """

    problem: int  # its index among the evaluated problems
    domain: str
    position: int  # output position, from 0
    logit_gap: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A setting against a baseline on the same prompts.

    Ratios, identical outputs and differences are there where both are of one model: its settings took turns
    on every prompt, and share a vocabulary.
    """

    model: str
    setting: str
    baseline_model: str
    baseline_setting: str
    judged: int  # prompts judged under both
    accuracy_points: float | None  # difference of the accuracies, in percentage points
    interval_points: tuple[float, float] | None  # 95 %, `paired.difference_interval`
    only_this_right: int  # b
    only_baseline_right: int  # c
    mcnemar_p: float | None  # exact, two-sided
    seconds_ratio: float | None = None  # prefill and decode, this / baseline: below 1 is faster
    tokens_per_second_ratio: float | None = None  # this / baseline: above 1 is faster
    identical: int | None = None  # outputs with the baseline's very tokens
    differences: tuple[Difference, ...] | None = None  # of the others

    @classmethod
    def of(
        cls, this: tuple[str, str], baseline: tuple[str, str], pairs: Sequence[tuple[bool | None, bool | None]]
    ) -> "Comparison":
        """Compare (model, setting) with another by their verdicts on each prompt."""
        judged = [(one, other) for one, other in pairs if one is not None and other is not None]
        n = len(judged)
        b = sum(one and not other for one, other in judged)
        c = sum(other and not one for one, other in judged)
        low, high = difference_interval(b, c, n)
        return cls(
            *this,
            *baseline,
            judged=n,
            accuracy_points=100 * (b - c) / n if n else None,
            interval_points=(100 * low, 100 * high) if n else None,
            only_this_right=b,
            only_baseline_right=c,
            mcnemar_p=mcnemar_p(b, c) if n else None,
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Models under settings, on the same problems."""

    machine: dict[str, Any]
    problems: dict[str, int]  # how many of each domain
    max_new_tokens: int
    models: tuple[ModelReport, ...]
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, as what `json.dumps` takes."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """A block of plain text for each model, the paired comparisons at its end."""
        about = ", ".join(f"{count} {domain}" for domain, count in self.problems.items())
        lines = [
            f"{sum(self.problems.values())} prompts ({about}), one at a time, "
            f"answers of at most {self.max_new_tokens} tokens",
            f"{self.machine['cpu']}, torch {self.machine['torch']}, {self.machine['date']}",
        ]
        for report in self.models:
            own = [each for each in self.comparisons if each.model == report.name]
            lines += ["", *_model_lines(report, own)]
        return "\n".join(lines)


# -- the table ------------------------------------------------------------------------------------------


def _model_lines(report: ModelReport, comparisons: Sequence[Comparison]) -> list[str]:
    threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    lines = [f"{report.name}: {report.parameters / 1e6:.1f}M parameters, {report.dtype}, {report.device}, {threads}"]
    names = [OVERALL, *(domain for each in report.results for domain in each.domains)]
    width = max(map(len, names))
    head = f"{'':{width}} {'n':>5} {'accuracy':>9} {'TPF':>6} {'tokens/s':>9} {'tokens':>7} {'cut':>5}"
    for result in report.results:
        drafts = "" if result.overall.drafted is None else f" {'accepted':>15}"
        lines += ["", f"  {result.setting}", f"    {head}{drafts}"]
        lines += [
            f"    {name:{width}} {_figures(figures)}".rstrip()
            for name, figures in {**result.domains, OVERALL: result.overall}.items()
        ]
    if report.not_judged is not None:
        if report.code_run:
            lines += ["", f"  Not every code answer was judged. {report.not_judged}"]
        else:
            lines += ["", "  Code answers are not judged: this model's programs are not run (--run-code runs them)."]
        lines.append(f"  The accuracy of '{OVERALL}' leaves out what was not judged.")
    for each in comparisons:
        lines += ["", *_comparison_lines(each)]
    return lines


def _figures(figures: Figures) -> str:
    accepted = ""
    if figures.drafted is not None:
        accepted = f"{figures.accepted} of {figures.drafted}"
    return (
        f"{figures.n:5} {_or_dash(figures.accuracy, '.1%'):>9} {_or_dash(figures.tokens_per_forward, '.2f'):>6} "
        f"{_or_dash(figures.tokens_per_second, '.1f'):>9} {figures.mean_output_tokens:7.1f} "
        f"{figures.cut_by_length:5.0%} {accepted:>15}"
    )


def _comparison_lines(each: Comparison) -> list[str]:
    against = each.baseline_setting
    if each.baseline_model != each.model:
        against = f"{against} of {each.baseline_model}"
    lines = [f"  {each.setting} against {against}"]
    if each.accuracy_points is None:
        lines.append("    accuracy: no prompt was judged under both")
    else:
        low, high = each.interval_points
        lines.append(
            f"    accuracy: {each.accuracy_points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}); "
            f"only this right {each.only_this_right}, only that right {each.only_baseline_right}, "
            f"of {each.judged}; McNemar p = {each.mcnemar_p:.3g}"
        )
    if each.identical is None:
        return lines
    lines.append(
        f"    wall-clock: {_or_dash(each.seconds_ratio, '.2f')}x the time, "
        f"{_or_dash(each.tokens_per_second_ratio, '.2f')}x the tokens/s"
    )
    differing = len(each.differences)
    lines.append(f"    outputs: {each.identical} of {each.identical + differing} token for token the same")
    gaps = [found.logit_gap for found in each.differences if found.logit_gap is not None]
    if gaps:
        lines.append(
            f"    AR's top-2 logit gap where they part: "
            f"smallest {min(gaps):.3g}, median {statistics.median(gaps):.3g}, largest {max(gaps):.3g}"
        )
    return lines


def _or_dash(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
