"""AUP, accuracy under parallelism: one number for a curve of accuracy over tokens per forward."""

import math
from collections.abc import Sequence
from itertools import pairwise

from nbdiff_engine.errors import SettingError

MOST_LOST = 5.0  # a setting with more points of accuracy below the least parallel one does not count
STEEPNESS = 3.0


def aup(points: Sequence[tuple[float, float]], best: float | None = None) -> float:
    """The area under the curve; the weight of a lost point of accuracy grows with the loss (hao-ai-lab's AUP).

    points: (tokens per forward, accuracy in percent) of each setting, in any order. best: the accuracy from which the
    loss is measured, by default the best of the points. Give the same value for all curves that are compared.
    Raises SettingError for an empty list or for values out of range.
    """
    if not points:
        raise SettingError("AUP needs at least one point of tokens per forward and accuracy.")
    for rate, accuracy in points:
        if not (math.isfinite(rate) and rate > 0 and 0 <= accuracy <= 100):
            raise SettingError(
                f"AUP cannot use the point ({rate:g}, {accuracy:g}): tokens per forward must be above 0, accuracy "
                "from 0 to 100 percent."
            )
    kept = points_that_count(points)
    best = max(accuracy for _, accuracy in kept) if best is None else best

    def worth(accuracy: float) -> float:
        return accuracy * min(math.exp(-STEEPNESS * (1 - accuracy / best)), 1.0) if best else 0.0

    area = kept[0][0] * kept[0][1]
    for (before, was), (rate, accuracy) in pairwise(kept):
        area += (rate - before) * (worth(accuracy) + worth(was)) / 2
    return area


def points_that_count(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that AUP uses, sorted: those that lose at most MOST_LOST against the least parallel point."""
    ordered = sorted(points)
    least = ordered[0][1] - MOST_LOST
    return [(rate, accuracy) for rate, accuracy in ordered if accuracy >= least]
