"""The results of an evaluation: figures pooled over prompts, paired comparisons and curves, also as JSON."""

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
    """One prompt answered under one setting. correct: None if it was not judged. batch: the batch that decoded it."""

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
    accuracy: float | None  # share of correct answers among the judged ones
    accuracy_interval: tuple[float, float] | None  # 95 %, `statistics.wilson_interval`
    tokens_per_forward: float | None
    tokens_per_second: float | None
    mean_output_tokens: float
    seconds: float  # prefill and decode, summed over batches
    drafted: int | None  # only of self-speculation
    accepted: int | None
    cut_by_length: float  # share of answers that ended at the length limit

    @classmethod
    def pooled(cls, answers: Sequence[Answer], speculative: bool) -> "AnswerFigures":
        """The figures of at least one answer. speculative: whether drafts were verified."""
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
    """One model under one setting. settings: all settings, with the values that the checkpoint's spec filled in."""

    setting: str
    settings: dict[str, Any]
    overall: AnswerFigures
    domains: dict[str, AnswerFigures]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model under all its settings. code_run: whether its programs were allowed to run, and so to be judged.

    not_judged: why the first answer without a verdict was not judged; None if all were judged.
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
    """The first position at which an output differs from AR's output.

    logit_gap: the difference of the logits of AR's two best tokens there. Near zero, the rounding may have decided
    between them. None if the outputs are sampled, or if one output ends there.
    """

    problem: int  # its index among the evaluated problems
    domain: str
    position: int  # output position, from 0
    logit_gap: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A setting compared with a baseline on the same prompts.

    Ratios, identical outputs and differences exist only if both are of one model: its settings were decoded alternately
    on every prompt and have the same vocabulary.
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
    identical: int | None = None  # outputs with the same tokens as the baseline's
    differences: tuple[Difference, ...] | None = None  # of the other outputs

    @classmethod
    def of(
        cls, this: tuple[str, str], baseline: tuple[str, str], pairs: Sequence[tuple[bool | None, bool | None]]
    ) -> "Comparison":
        """Compare two (model, setting) pairs by their verdicts on each prompt."""
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
    """The definitions of figures that have more than one usual definition, one sentence each."""

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
    problems_digest: str  # equal for runs with the same problems
    definitions: Definitions

    def to_json(self) -> dict[str, Any]:
        """The whole evaluation, as a dict for `json.dumps`."""
        return dataclasses.asdict(self)
