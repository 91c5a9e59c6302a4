"""The curves of an evaluation: accuracy against tokens per forward, and the AUP of each.

There is one for each model, strategy and block size, over all that was varied beside them (thresholds, most often),
and one for each model and strategy over everything. AR of the same model, whose tokens per forward are 1, is the first
point of each: the accuracy that the others are measured against.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.evaluation.aup import aup, points_that_count


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One setting on a curve. accuracy: in percent. counts: whether AUP is made of it, too."""

    setting: str
    tokens_per_forward: float
    accuracy: float
    counts: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """Points by tokens per forward. block_size: None for the curve over everything of a strategy."""

    model: str
    strategy: str
    block_size: int | None
    aup: float
    best: float  # the accuracy, in percent, that loses nothing: the same for all curves of an evaluation
    points: tuple[CurvePoint, ...]

    @property
    def name(self) -> str:
        size = "all" if self.block_size is None else f"block {self.block_size}"
        return f"{self.model}, {self.strategy}, {size}"


@dataclass(frozen=True, slots=True)
class Measured:
    """A model under a setting, as far as curves go; None where there was nothing to divide by or to judge."""

    model: str
    setting: str
    settings: Mapping[str, Any]  # all of them, as the checkpoint's spec settled them
    tokens_per_forward: float | None
    accuracy: float | None  # a share


def curves_of(measured: Sequence[Measured]) -> list[Curve]:
    """The curves, in the order of what was measured, with one best accuracy for all of them.

    AR alone makes no curve.
    """
    found = [each for each in measured if each.tokens_per_forward and each.accuracy is not None]
    best = max((100 * each.accuracy for each in found), default=0.0)
    ar: dict[str, list[Measured]] = {}
    groups: dict[tuple[str, str], dict[int, list[Measured]]] = {}
    for each in found:
        strategy = each.settings["strategy"]
        if strategy == "ar":
            ar.setdefault(each.model, []).append(each)
        else:
            sizes = groups.setdefault((each.model, strategy), {})
            sizes.setdefault(each.settings["block_size"], []).append(each)
    curves = []
    for (model, strategy), sizes in groups.items():
        start = ar.get(model, [])[:1]
        for size, own in sorted(sizes.items()):
            curves.append(_curve(model, strategy, size, [*start, *own], best))
        everything = [each for own in sizes.values() for each in own]
        curves.append(_curve(model, strategy, None, [*start, *everything], best))
    return curves


def _curve(model: str, strategy: str, size: int | None, own: Sequence[Measured], best: float) -> Curve:
    pairs = [(each.tokens_per_forward, 100 * each.accuracy) for each in own]
    kept = set(points_that_count(pairs))
    points = [CurvePoint(each.setting, *pair, pair in kept) for each, pair in zip(own, pairs)]
    points.sort(key=lambda point: (point.tokens_per_forward, point.accuracy))
    return Curve(model, strategy, size, aup(pairs, best), best, tuple(points))
