"""The horizontal axis of a run's figures: steps, tokens or time."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from training.run.log_lines import StepFigures

STEP, TOKENS, TIME = X_AXES = ("Steps", "Tokens", "Time")
_MANY_MINUTES = 180


@dataclass(frozen=True, slots=True)
class XAxis:
    """at: the place of a step on the axis. hover: the place in words, as Plotly writes it."""

    title: str
    hover: str
    at: Callable[[int], float]


STEPS = XAxis("Step", "at step %{x}", lambda step: step)


def x_axis(kind: str, metrics: Sequence[StepFigures]) -> XAxis:
    """The axis of a run. kind: one of X_AXES; any other is STEP. metrics: of the run, which know tokens and seconds."""
    steps = [line.step for line in metrics]
    if kind == TOKENS:
        seen = [float(line.tokens_seen or 0) for line in metrics]
        return XAxis("Tokens seen", "after %{x:,.0f} tokens", _between(steps, seen))
    if kind == TIME:
        seconds = [line.seconds or 0.0 for line in metrics]
        hours = bool(seconds) and seconds[-1] > 60 * _MANY_MINUTES
        unit, size = ("hours", 3600) if hours else ("minutes", 60)
        return XAxis(f"Time ({unit})", f"after %{{x:.1f}} {unit}", _between(steps, [each / size for each in seconds]))
    return STEPS


def _between(steps: Sequence[int], values: Sequence[float]) -> Callable[[int], float]:
    """The value at a step, which may lie between two lines of the log, or before the first: step 0 is at 0."""

    def at(step: int) -> float:
        place = bisect_right(steps, step)
        before = (steps[place - 1], values[place - 1]) if place else (0, 0.0)
        if place == len(steps) or before[0] == step:
            return before[1]
        share = (step - before[0]) / (steps[place] - before[0])
        return before[1] + share * (values[place] - before[1])

    return at
