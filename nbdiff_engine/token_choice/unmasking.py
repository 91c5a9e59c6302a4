"""Unmasking policies: which of the positions that are still masked does a denoise step fix?

A policy sees the predictions for the masked positions of the current sub-block and returns the indices to fix, at
least one, so that a block always ends. `POLICIES` is the only table of them: Python reads it, and the page gets it as
JSON. To add a policy: one function, one entry in the table, one field of DecodeSettings if no field has its setting,
and a naive reference in tests/engine/token_choice/test_unmasking.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from nbdiff_engine.token_choice.sampling import Prediction
from nbdiff_engine.trace.events import Reason

Selection = dict[int, Reason]  # indices into a Prediction, and why each is fixed


@dataclass(frozen=True, slots=True)
class UnmaskingPolicy:
    """One entry of the table: the rule of a denoise step, and what people read about it.

    select(prediction, step, value): the indices into `prediction` to fix now, and why; never empty for a non-empty
    prediction. prediction: one entry for each position of the sub-block that is still masked. step: how many passes
    this sub-block has had before; a draft has no sub-blocks and counts its own passes. value: of the policy's setting.
    """

    name: str
    label: str  # its title in a form
    setting: str  # the one field of DecodeSettings that it reads
    short: str  # format of the setting's value, as one line says how a lane decodes
    rule: str  # one sentence
    source: str  # arXiv id of the paper that has the rule
    select: Callable[[Prediction, int, Any], Selection]
    needs: frozenset[str] = frozenset()  # what Prediction must hold beside confidences: "entropy", "margin"

    def describe(self, value: float) -> str:
        """The policy under a value of its setting, in a few words: "threshold 0.9"."""
        return self.short.format(value)

    def to_json(self) -> dict[str, Any]:
        """The entry without its function, as what `json.dumps` takes."""
        words = ("name", "label", "setting", "short", "rule", "source")
        return {**{each: getattr(self, each) for each in words}, "needs": sorted(self.needs)}


# -- the rules ------------------------------------------------------------------------------------------


def select_over_threshold(prediction: Prediction, step: int, threshold: float) -> Selection:
    """The most confident position, and every other whose confidence is strictly above the threshold.

    The rule of NBDiff's code (arXiv 2512.06776) and of Fast-dLLM (arXiv 2505.22618).
    """
    return _best_and_all_above(prediction.confidence, threshold, Reason.OVER_THRESHOLD)


def select_by_factor(prediction: Prediction, step: int, factor: float) -> Selection:
    """The n most confident positions, n the largest with (n + 1) (1 - c_n) < factor for the n-th best confidence
    c_n; the most confident one in any case. The more are fixed together, the surer the last of them must be.

    Fast-dLLM's factor rule (arXiv 2505.22618). The left side never falls as n grows, so n is a prefix.
    """
    order = _descending(prediction.confidence)
    fit = [
        index for count, index in enumerate(order, start=1) if (count + 1) * (1 - prediction.confidence[index]) < factor
    ]
    return dict.fromkeys(fit, Reason.OVER_FACTOR) or {order[0]: Reason.MOST_CONFIDENT}


def select_over_margin(prediction: Prediction, step: int, margin: float) -> Selection:
    """The position where the best token leads the second best by most, and every other whose lead, as a difference
    of probabilities, is strictly above the margin.

    The lead is that of the plain softmax, whichever token was sampled. The measure is that of Kim et al.
    (arXiv 2502.06768), who fix the k largest; here it is a threshold, so that clear steps are parallel.
    """
    return _best_and_all_above(prediction.margin, margin, Reason.OVER_MARGIN)


def select_most_confident(prediction: Prediction, step: int, tokens_per_step: int) -> Selection:
    """The k most confident positions of the step: k = 1 is one token a forward (`origin` in NBDiff's code)."""
    return dict.fromkeys(_descending(prediction.confidence)[:tokens_per_step], Reason.TOP_K)


def select_least_entropy(prediction: Prediction, step: int, tokens_per_step: int) -> Selection:
    """The k positions whose predicted distribution has the least entropy (Dream, arXiv 2508.15487)."""
    return dict.fromkeys(_ascending(prediction.entropy)[:tokens_per_step], Reason.LOWEST_ENTROPY)


def select_within_entropy_bound(prediction: Prediction, step: int, entropy_bound: float) -> Selection:
    """The positions of least entropy, as many as keep (sum of their entropies - the largest of them) within the
    bound, in nats; the first always does.

    EB-Sampler (arXiv 2505.24857): that difference bounds what is lost by fixing them as if independent.
    """
    order = _ascending(prediction.entropy)
    # The largest of a prefix is its last, so what counts is the sum of those before it, which never falls.
    before = accumulate((prediction.entropy[index] for index in order[:-1]), initial=0.0)
    within = [index for index, spent in zip(order, before) if spent <= entropy_bound]
    return dict.fromkeys(within, Reason.WITHIN_ENTROPY_BOUND)


def select_by_schedule(prediction: Prediction, step: int, steps_per_block: int) -> Selection:
    """So many of the most confident positions that the sub-block is done after `steps_per_block` passes: what is
    still masked, divided by the passes left, rounded up. A sub-block of fewer masks than steps is done sooner.

    LLaDA's even schedule (arXiv 2502.09992), a sub-block at a time.
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
    """Every index whose value is strictly above the limit; else the best one, so that a step fixes one."""
    chosen = {index: reason for index, value in enumerate(values) if value > limit}
    return chosen or {max(range(len(values)), key=values.__getitem__): Reason.MOST_CONFIDENT}


def _descending(values: list[float]) -> list[int]:
    """Indices, largest value first; of equal ones the leftmost."""
    return sorted(range(len(values)), key=lambda index: -values[index])


def _ascending(values: list[float]) -> list[int]:
    """Indices, smallest value first; of equal ones the leftmost."""
    return sorted(range(len(values)), key=values.__getitem__)
