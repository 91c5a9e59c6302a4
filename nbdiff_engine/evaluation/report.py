"""What an evaluation found: figures pooled over prompts, paired comparisons and curves, and all of it as JSON."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.evaluation.curves import Curve
from nbdiff_engine.evaluation.machine_facts import MachineFacts
from nbdiff_engine.evaluation.statistics import difference_interval, mcnemar_p, wilson_interval
from nbdiff_engine.trace.events import FinishReason
from nbdiff_engine.trace.metrics import Metrics, pooled


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt answered under one setting. correct: None where nobody judged it. batch: with whom it was decoded."""

    token_ids: list[int]
    finish_reason: FinishReason
    metrics: Metrics
    correct: bool | None
    batch: int


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """Figures pooled over the answers to `n` prompts, rates and times as `trace.metrics.pooled` defines them."""

    n: int
    judged: int
    accuracy: float | None  # share of the judged answers that are right
    accuracy_interval: tuple[float, float] | None  # 95 %, `statistics.wilson_interval`
    tokens_per_forward: float | None
    tokens_per_second: float | None
    mean_output_tokens: float
    seconds: float  # prefill and decode, summed over batches
    drafted: int | None  # self-speculation alone
    accepted: int | None
    cut_by_length: float  # share of answers that the length limit ended

    @classmethod
    def pooled(cls, answers: Sequence[Answer], speculative: bool) -> "AnswerFigures":
        """The figures of at least one answer. speculative: whether drafts were put to verification."""
        rates = pooled([each.metrics for each in answers], [each.batch for each in answers])
        judged = [each.correct for each in answers if each.correct is not None]
        return cls(
            n=len(answers),
            judged=len(judged),
            accuracy=sum(judged) / len(judged) if judged else None,
            accuracy_interval=wilson_interval(sum(judged), len(judged)),
            tokens_per_forward=rates.tokens_per_forward,
            tokens_per_second=rates.tokens_per_second,
            mean_output_tokens=rates.output_tokens / len(answers),
            seconds=rates.seconds,
            drafted=rates.drafted if speculative else None,
            accepted=rates.accepted if speculative else None,
            cut_by_length=sum(each.finish_reason == FinishReason.LENGTH for each in answers) / len(answers),
        )


@dataclass(frozen=True, slots=True)
class SettingReport:
    """One model under one setting. settings: all of them, with what the checkpoint's spec filled in."""

    setting: str
    settings: dict[str, Any]
    overall: AnswerFigures
    domains: dict[str, AnswerFigures]


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
    interval_points: tuple[float, float] | None  # 95 %, `statistics.difference_interval`
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
class Definitions:
    """What the figures are that can be defined in more than one way, a sentence each."""

    tokens_per_second: str
    accuracy_interval: str
    aup: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Models under settings, on the same problems."""

    machine: MachineFacts
    problems: dict[str, int]  # how many of each domain
    max_new_tokens: int
    models: tuple[ModelReport, ...]
    comparisons: tuple[Comparison, ...]
    curves: tuple[Curve, ...]
    batch_size: int
    problems_digest: str  # equal for runs over the same problems
    definitions: Definitions

    def to_json(self) -> dict[str, Any]:
        """Everything, as what `json.dumps` takes."""
        return dataclasses.asdict(self)
