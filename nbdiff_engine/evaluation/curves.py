"""The curves of an evaluation: accuracy over tokens per forward, and the AUP of each curve.

There is one curve for each model, strategy and block size, over the other settings that vary (mostly thresholds), and
one for each model and strategy over all settings. The first point of each curve is AR of the same model, with one
token per forward: the other points are compared with its accuracy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.evaluation.aup import aup, points_that_count


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One setting on a curve. accuracy: in percent. counts: whether AUP uses this point."""

    setting: str
    tokens_per_forward: float
    accuracy: float
    counts: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """Points, sorted by tokens per forward. block_size: None for the curve over all settings of a strategy."""

    model: str
    strategy: str
    block_size: int | None
    aup: float
    best: float  # the accuracy, in percent, from which AUP measures the loss: the same for all curves
    points: tuple[CurvePoint, ...]

    @property
    def name(self) -> str:
        size = "all" if self.block_size is None else f"block {self.block_size}"
        return f"{self.model}, {self.strategy}, {size}"


@dataclass(frozen=True, slots=True)
class Measured:
    """The values of a model under a setting that curves need; None if there was no forward or no judged answer."""

    model: str
    setting: str
    settings: Mapping[str, Any]  # all settings, with the values that the checkpoint's spec filled in
    tokens_per_forward: float | None
    accuracy: float | None  # a share


def curves_of(measured: Sequence[Measured]) -> list[Curve]:
    """The curves, in the order of `measured`, with one best accuracy for all of them.

    A model with only AR has no curve.
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
