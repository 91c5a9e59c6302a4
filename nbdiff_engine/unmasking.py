"""Unmasking policies: of what is still masked, which positions does this denoise step fix?

A policy sees the predictions for the masked positions of the current sub-block and returns the indices to
fix, at least one, so that a block always ends. To add one: a frozen dataclass with `select`, a line in
`POLICIES`, a naive reference in `tests/engine/test_unmasking.py`.
"""

from dataclasses import dataclass
from typing import Protocol

from nbdiff_engine.events import Reason
from nbdiff_engine.sampling import Prediction


class UnmaskingPolicy(Protocol):
    """The rule of a denoise step."""

    needs_entropy: bool  # whether Prediction.entropy must be filled in

    def select(self, prediction: Prediction) -> dict[int, Reason]:
        """Indices into `prediction` to fix now, and why. Never empty for a non-empty prediction."""


@dataclass(frozen=True, slots=True)
class ConfidenceThreshold:
    """The most confident position, and every other whose confidence is strictly above the threshold.

    The rule of NBDiff's code and of Fast-dLLM (arXiv 2505.22618).
    """

    threshold: float
    needs_entropy: bool = False

    def select(self, prediction: Prediction) -> dict[int, Reason]:
        confidence = prediction.confidence
        best = max(range(len(confidence)), key=confidence.__getitem__)
        chosen = {index: Reason.OVER_THRESHOLD for index, p in enumerate(confidence) if p > self.threshold}
        chosen.setdefault(best, Reason.MOST_CONFIDENT)
        return chosen


@dataclass(frozen=True, slots=True)
class TopK:
    """The k most confident positions of the step: k = 1 is one token a forward (`origin` in NBDiff's code)."""

    tokens_per_step: int = 1
    needs_entropy: bool = False

    def select(self, prediction: Prediction) -> dict[int, Reason]:
        order = sorted(range(len(prediction.tokens)), key=lambda index: -prediction.confidence[index])
        return dict.fromkeys(order[: self.tokens_per_step], Reason.TOP_K)


@dataclass(frozen=True, slots=True)
class LowestEntropy:
    """The k positions whose predicted distribution has the least entropy (Dream, arXiv 2508.15487)."""

    tokens_per_step: int = 1
    needs_entropy: bool = True

    def select(self, prediction: Prediction) -> dict[int, Reason]:
        order = sorted(range(len(prediction.tokens)), key=prediction.entropy.__getitem__)
        return dict.fromkeys(order[: self.tokens_per_step], Reason.LOWEST_ENTROPY)


POLICIES = {
    "confidence": lambda threshold, tokens_per_step: ConfidenceThreshold(threshold),
    "top_k": lambda threshold, tokens_per_step: TopK(tokens_per_step),
    "entropy": lambda threshold, tokens_per_step: LowestEntropy(tokens_per_step),
}
