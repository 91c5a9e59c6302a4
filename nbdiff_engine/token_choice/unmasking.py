"""Unmasking policies: they choose the masked positions that a denoise step fixes.

A policy gets the predictions for the masked positions of the current sub-block and returns the indices to fix, at
least one, so that a block always ends. `POLICIES` is the only table of policies: Python reads it, and the page gets it
as JSON. A new policy needs one function, one entry in the table, one field of DecodeSettings if no field has its
setting, and a naive reference in tests/engine/token_choice/test_unmasking.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from nbdiff_engine.token_choice.sampling import Prediction
from nbdiff_engine.trace.events import Reason

Selection = dict[int, Reason]  # indices into a Prediction, each with the reason to fix it


@dataclass(frozen=True, slots=True)
class UnmaskingPolicy:
    """One entry of the table: the rule of a denoise step, and its texts for the user.

    select(prediction, step, value): the indices into `prediction` to fix now, with reasons; never empty for a non-empty
    prediction. prediction: one entry for each position of the sub-block that is still masked. step: the number of
    earlier passes of this sub-block; a draft has no sub-blocks and counts its own passes. value: the value of the
    policy's setting.
    """

    name: str
    label: str  # its title in a form
    setting: str  # the one field of DecodeSettings that it reads
    short: str  # format of the setting's value, for the one-line description of a lane
    rule: str  # one sentence
    source: str  # arXiv id of the paper with the rule
    select: Callable[[Prediction, int, Any], Selection]
    needs: frozenset[str] = frozenset()  # measures that it needs besides confidence: "entropy", "margin"

    def describe(self, value: float) -> str:
        """The policy with a value of its setting, in a few words: "threshold 0.9"."""
        return self.short.format(value)

    def to_json(self) -> dict[str, Any]:
        """The entry without its function, as a dict for `json.dumps`."""
        words = ("name", "label", "setting", "short", "rule", "source")
        return {**{each: getattr(self, each) for each in words}, "needs": sorted(self.needs)}


# -- the rules ------------------------------------------------------------------------------------------


def select_over_threshold(prediction: Prediction, step: int, threshold: float) -> Selection:
    """The most confident position, and all positions whose confidence is strictly above the threshold.

    The rule of NBDiff's code (arXiv 2512.06776) and of Fast-dLLM (arXiv 2505.22618).
    """
    return _best_and_all_above(prediction.confidence, threshold, Reason.OVER_THRESHOLD)


def select_by_factor(prediction: Prediction, step: int, factor: float) -> Selection:
    """The n most confident positions: n is the largest number with (n + 1) (1 - c_n) < factor, where c_n is the n-th
    best confidence. The most confident position is always fixed. If more positions are fixed together, the last of
    them needs a higher confidence.

    Fast-dLLM's factor rule (arXiv 2505.22618). The left side never decreases with n, so the positions are a prefix of
    the sorted ones.
    """
    order = _descending(prediction.confidence)
    fit = [
        index for count, index in enumerate(order, start=1) if (count + 1) * (1 - prediction.confidence[index]) < factor
    ]
    return dict.fromkeys(fit, Reason.OVER_FACTOR) or {order[0]: Reason.MOST_CONFIDENT}


def select_over_margin(prediction: Prediction, step: int, margin: float) -> Selection:
    """The position with the largest lead, and all positions whose lead is strictly above the margin. The lead is the
    probability of the best token minus that of the second best.

    The lead is computed from the plain softmax, independent of the sampled token. Kim et al. (arXiv 2502.06768) use
    this measure and fix the k largest; here it has a threshold, so that a step can fix many clear positions at once.
    """
    return _best_and_all_above(prediction.margin, margin, Reason.OVER_MARGIN)


def select_most_confident(prediction: Prediction, step: int, tokens_per_step: int) -> Selection:
    """The k most confident positions of the step; k = 1 is one token per forward (`origin` in NBDiff's code)."""
    return dict.fromkeys(_descending(prediction.confidence)[:tokens_per_step], Reason.TOP_K)


def select_least_entropy(prediction: Prediction, step: int, tokens_per_step: int) -> Selection:
    """The k positions whose predicted distribution has the least entropy (Dream, arXiv 2508.15487)."""
    return dict.fromkeys(_ascending(prediction.entropy)[:tokens_per_step], Reason.LOWEST_ENTROPY)


def select_within_entropy_bound(prediction: Prediction, step: int, entropy_bound: float) -> Selection:
    """As many positions of least entropy as possible while (sum of their entropies - the largest of them) is within
    the bound, in nats. A single position always is.

    EB-Sampler (arXiv 2505.24857): the difference bounds the error of fixing the positions as if they were independent.
    """
    order = _ascending(prediction.entropy)
    # The last of a sorted prefix is its largest, so the difference is the sum of the others, which never decreases.
    before = accumulate((prediction.entropy[index] for index in order[:-1]), initial=0.0)
    within = [index for index, spent in zip(order, before) if spent <= entropy_bound]
    return dict.fromkeys(within, Reason.WITHIN_ENTROPY_BOUND)


def select_by_schedule(prediction: Prediction, step: int, steps_per_block: int) -> Selection:
    """The most confident positions, in a number that finishes the sub-block after `steps_per_block` passes: the
    remaining masks divided by the remaining passes, rounded up. A sub-block with fewer masks than steps finishes
    earlier.

    LLaDA's even schedule (arXiv 2502.09992), for each sub-block.
    """
    left = max(steps_per_block - step, 1)
    count = -(-len(prediction.tokens) // left)
    return dict.fromkeys(_descending(prediction.confidence)[:count], Reason.SCHEDULED)


# -- the table ------------------------------------------------------------------------------------------

POLICIES: dict[str, UnmaskingPolicy] = {
    policy.name: policy
    for policy in (
        UnmaskingPolicy(
            name="confidence",
            label="Confidence threshold",
            setting="threshold",
            short="threshold {:g}",
            rule="A pass fixes every position whose confidence is above the threshold, and the most confident one.",
            source="2505.22618",
            select=select_over_threshold,
        ),
        UnmaskingPolicy(
            name="factor",
            label="Confidence factor",
            setting="factor",
            short="factor {:g}",
            rule="A pass fixes the n most confident positions, as long as (n + 1) (1 - confidence of the n-th) is "
            "below the factor, and the most confident one in any case.",
            source="2505.22618",
            select=select_by_factor,
        ),
        UnmaskingPolicy(
            name="margin",
            label="Top-2 margin",
            setting="margin",
            short="margin {:g}",
            rule="A pass fixes every position whose best token leads the second best by more than the margin, and the "
            "one with the largest lead.",
            source="2502.06768",
            select=select_over_margin,
            needs=frozenset({"margin"}),
        ),
        UnmaskingPolicy(
            name="top_k",
            label="Most confident k",
            setting="tokens_per_step",
            short="{} most confident a step",
            rule="A pass fixes the k most confident positions.",
            source="2512.06776",
            select=select_most_confident,
        ),
        UnmaskingPolicy(
            name="entropy",
            label="Least entropy k",
            setting="tokens_per_step",
            short="{} least uncertain a step",
            rule="A pass fixes the k positions of least entropy.",
            source="2508.15487",
            select=select_least_entropy,
            needs=frozenset({"entropy"}),
        ),
        UnmaskingPolicy(
            name="entropy_bound",
            label="Entropy bound",
            setting="entropy_bound",
            short="entropy bound {:g}",
            rule="A pass fixes the positions of least entropy, while the entropies of those before sum to the bound or "
            "less.",
            source="2505.24857",
            select=select_within_entropy_bound,
            needs=frozenset({"entropy"}),
        ),
        UnmaskingPolicy(
            name="fixed_steps",
            label="Fixed steps",
            setting="steps_per_block",
            short="{} steps a block",
            rule="A pass fixes as many of the most confident positions as finish a sub-block in the given number of "
            "passes.",
            source="2502.09992",
            select=select_by_schedule,
        ),
    )
}
PolicyName = Literal[tuple(POLICIES)]  # the type of a setting that names a policy


def _best_and_all_above(values: list[float], limit: float, reason: Reason) -> dict[int, Reason]:
    """All indices whose value is strictly above the limit; if none is, the best one: a step fixes at least one."""
    chosen = {index: reason for index, value in enumerate(values) if value > limit}
    return chosen or {max(range(len(values)), key=values.__getitem__): Reason.MOST_CONFIDENT}


def _descending(values: list[float]) -> list[int]:
    """Indices, largest value first; for equal values the leftmost first."""
    return sorted(range(len(values)), key=lambda index: -values[index])


def _ascending(values: list[float]) -> list[int]:
    """Indices, smallest value first; for equal values the leftmost first."""
    return sorted(range(len(values)), key=values.__getitem__)
