"""The work of a lane, counted, and the time of its forwards: what a single run can say and what it cannot.

The number of forwards and their widths repeat in every run with the same settings. A time does not: one forward that
had to wait for another process changes the sum. So a lane's time is its forwards times the median of their times.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nbdiff_engine.trace.events import Commit, DecodeEvent, Denoise, Edit, Verify

LEAST_TIMED = 4  # fewer forwards have no quartiles worth the name


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward of decoding. kind: denoise, commit or verify; width: tokens that it computes; seconds."""

    kind: str
    width: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ForwardTime:
    """The time of a lane's forwards in seconds: the median and the quartiles around it."""

    low: float
    median: float
    high: float


def forwards_of(events: Sequence[DecodeEvent]) -> list[Forward]:
    """The forwards after the prefill and after the last edit, in order."""
    found: list[Forward] = []
    before = 0.0
    for event in events:
        if isinstance(event, Edit):
            found.clear()
        elif isinstance(event, Denoise | Commit | Verify):
            kind = type(event).__name__.lower()
            found.append(Forward(kind, event.stop - event.start, event.time - before))
        before = event.time
    return found


def time_of(forwards: Sequence[Forward]) -> ForwardTime | None:
    """None for fewer than LEAST_TIMED forwards."""
    if len(forwards) < LEAST_TIMED:
        return None
    low, median, high = statistics.quantiles([each.seconds for each in forwards], n=4, method="inclusive")
    return ForwardTime(low, median, high)


def same_work(first: Sequence[Forward], second: Sequence[Forward]) -> bool:
    """Whether both lanes computed the same forwards: as many, of the same kinds and widths, in the same order."""
    return [(each.kind, each.width) for each in first] == [(each.kind, each.width) for each in second]


def mean_width(forwards: Sequence[Forward]) -> float:
    """Tokens per forward that the network computes, masked ones too."""
    return statistics.fmean(each.width for each in forwards)
