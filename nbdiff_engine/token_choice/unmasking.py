"""Unmasking policies: of what is still masked, which positions does this denoise step fix?

A policy sees the predictions for the masked positions of the current sub-block and returns the indices to
fix, at least one, so that a block always ends. To add one: a frozen dataclass with `select`, a line in
`POLICIES`, a naive reference in `tests/engine/test_unmasking.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Protocol

from nbdiff_engine.token_choice.sampling import Prediction
from nbdiff_engine.trace.events import Reason

if TYPE_CHECKING:  # the settings name the policies, so they import this file
    from nbdiff_engine.decoding.settings import DecodeSettings

NOTHING_MORE: frozenset[str] = frozenset()


class UnmaskingPolicy(Protocol):
    """The rule of a denoise step."""

    needs: ClassVar[frozenset[str]]  # what Prediction must hold beside confidences: "entropy", "margin"

    def select(self, prediction: Prediction, step: int) -> dict[int, Reason]:
        """Indices into `prediction` to fix now, and why. Never empty for a non-empty prediction.

        prediction: one entry for each position of the sub-block that is still masked. step: how many passes
        this sub-block has had before; a draft, which has no sub-blocks, counts its own.
        """


@dataclass(frozen=True, slots=True)
class ConfidenceThreshold:
    """The most confident position, and every other whose confidence is strictly above the threshold.

    The rule of NBDiff's code and of Fast-dLLM (arXiv 2505.22618).
    """

    threshold: float
    needs: ClassVar[frozenset[str]] = NOTHING_MORE

    def select(self, prediction: Prediction, step: int) -> dict[int, Reason]:
        return _best_and_all_above(prediction.confidence, self.threshold, Reason.OVER_THRESHOLD)


@dataclass(frozen=True, slots=True)
class ConfidenceFactor:
    """The n most confident positions, n the largest with (n + 1) (1 - c_n) < factor for the n-th best confidence
    c_n; the most confident one in any case. The more are fixed together, the surer the last of them must be.

    Fast-dLLM's factor rule (arXiv 2505.22618). The left side never falls as n grows, so n is a prefix.
    """

    factor: float
    needs: ClassVar[frozenset[str]] = NOTHING_MORE

    def select(self, prediction: Prediction, step: int) -> dict[int, Reason]:
        order = _descending(prediction.confidence)
        fit = [
            index
            for count, index in enumerate(order, start=1)
            if (count + 1) * (1 - prediction.confidence[index]) < self.factor
        ]
        return dict.fromkeys(fit, Reason.OVER_FACTOR) or {order[0]: Reason.MOST_CONFIDENT}


@dataclass(frozen=True, slots=True)
class TopTwoMargin:
    """The position where the best token leads the second best by most, and every other whose lead, as a
    difference of probabilities, is strictly above the margin.

    The lead is that of the plain softmax, whichever token was sampled. The measure is that of Kim et al.
    (arXiv 2502.06768), who fix the k largest; here it is a threshold, so that clear steps are parallel.
    """

    margin: float
    needs: ClassVar[frozenset[str]] = frozenset({"margin"})

    def select(self, prediction: Prediction, step: int) -> dict[int, Reason]:
        return _best_and_all_above(prediction.margin, self.margin, Reason.OVER_MARGIN)


@dataclass(frozen=True, slots=True)
class TopK:
    """The k most confident positions of the step: k = 1 is one token a forward (`origin` in NBDiff's code)."""

    tokens_per_step: int = 1
    needs: ClassVar[frozenset[str]] = NOTHING_MORE

    def select(self, prediction: Prediction, step: int) -> dict[int, Reason]:
        return dict.fromkeys(_descending(prediction.confidence)[: self.tokens_per_step], Reason.TOP_K)


@dataclass(frozen=True, slots=True)
class LowestEntropy:
    """The k positions whose predicted distribution has the least entropy (Dream, arXiv 2508.15487)."""

    tokens_per_step: int = 1
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def select(self, prediction: Prediction, step: int) -> dict[int, Reason]:
        return dict.fromkeys(_ascending(prediction.entropy)[: self.tokens_per_step], Reason.LOWEST_ENTROPY)


@dataclass(frozen=True, slots=True)
class EntropyBound:
    """The positions of least entropy, as many as keep (sum of their entropies - the largest of them) within the
    bound, in nats; the first always does.

    EB-Sampler (arXiv 2505.24857): that difference bounds what is lost by fixing them as if independent.
    """

    entropy_bound: float
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def select(self, prediction: Prediction, step: int) -> dict[int, Reason]:
        order = _ascending(prediction.entropy)
        # The largest of a prefix is its last, so what counts is the sum of those before it, which never falls.
        before = accumulate((prediction.entropy[index] for index in order[:-1]), initial=0.0)
        within = [index for index, spent in zip(order, before) if spent <= self.entropy_bound]
        return dict.fromkeys(within, Reason.WITHIN_ENTROPY_BOUND)


@dataclass(frozen=True, slots=True)
class FixedSteps:
    """So many of the most confident positions that the sub-block is done after `steps` passes: what is still
    masked, divided by the passes left, rounded up. A sub-block of fewer masks than steps is done sooner.

    LLaDA's even schedule (arXiv 2502.09992), a sub-block at a time.
    """

    steps: int
    needs: ClassVar[frozenset[str]] = NOTHING_MORE

    def select(self, prediction: Prediction, step: int) -> dict[int, Reason]:
        left = max(self.steps - step, 1)
        count = -(-len(prediction.tokens) // left)
        return dict.fromkeys(_descending(prediction.confidence)[:count], Reason.SCHEDULED)


POLICIES: dict[str, Callable[["DecodeSettings"], UnmaskingPolicy]] = {
    "confidence": lambda settings: ConfidenceThreshold(settings.threshold),
    "factor": lambda settings: ConfidenceFactor(settings.factor),
    "margin": lambda settings: TopTwoMargin(settings.margin),
    "top_k": lambda settings: TopK(settings.tokens_per_step),
    "entropy": lambda settings: LowestEntropy(settings.tokens_per_step),
    "entropy_bound": lambda settings: EntropyBound(settings.entropy_bound),
    "fixed_steps": lambda settings: FixedSteps(settings.steps_per_block),
}


def _best_and_all_above(values: list[float], limit: float, reason: Reason) -> dict[int, Reason]:
    """Every index whose value is strictly above the limit; else the best one, so that a step fixes one."""
    chosen = {index: reason for index, value in enumerate(values) if value > limit}
    return chosen or {max(range(len(values)), key=values.__getitem__): Reason.MOST_CONFIDENT}


def _descending(values: list[float]) -> list[int]:
    """Indices, largest value first; of equal ones the leftmost."""
    return sorted(range(len(values)), key=lambda index: -values[index])


def _ascending(values: list[float]) -> list[int]:
    """Indices, smallest value first; of equal ones the leftmost."""
    return sorted(range(len(values)), key=values.__getitem__)
