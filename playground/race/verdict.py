"""The verdict on a race: the fastest lane and the reason, in words."""

from collections.abc import Iterable
from dataclasses import dataclass

from nbdiff_engine.trace.metrics import Metrics
from playground.race.frames import Summary, race_of
from playground.race.race_file import Race
from playground.server.worker import Logged

TIE = 1.05  # one run cannot show a smaller ratio of rates


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished lane: what the verdict compares."""

    name: str
    strategy: str
    metrics: Metrics
    tokens: tuple[int, ...]

    @property
    def rate(self) -> float | None:
        return self.metrics.tokens_per_second

    @property
    def seconds_per_forward(self) -> float:
        return self.metrics.decode_seconds / self.metrics.decode_forwards


def summary(log: Iterable[Logged]) -> Summary:
    """The last frame of a run, with its verdict."""
    return Summary(verdict(entries(race_of(log, ""))))


def entries(race: Race) -> list[Entry]:
    """The finished lanes of a race."""
    return [
        Entry(lane.name, lane.strategy, lane.metrics, lane.trace.token_ids)
        for lane in race.lanes
        if lane.metrics is not None
    ]


def verdict(lanes: list[Entry]) -> str:
    """One or two sentences: the fastest lane of this run, and the reason.

    Rates are compared, not times, because the answers differ in length. The first AR lane is the baseline; without one,
    the two fastest lanes are compared.
    """
    if len(lanes) < 2:
        return ""
    short = [lane.name for lane in lanes if not lane.rate]
    if short:
        return f"No verdict: the answer of {' and of '.join(short)} is too short to measure a rate."
    ranked = sorted(lanes, key=lambda lane: -lane.rate)
    baseline = next((lane for lane in lanes if lane.strategy == "ar"), None)
    best = ranked[0]
    other = ranked[1] if baseline is None or best is baseline else baseline
    ratio = best.rate / other.rate
    same = best.tokens == other.tokens
    if ratio < TIE:
        return f"A tie between {best.name} and {other.name} in this run. {_reason(best, other)}"
    if same:
        return f"{best.name} was {ratio:.1f}x as fast as {other.name}, with the same tokens. {_reason(best, other)}"
    return (
        f"{best.name} decoded {ratio:.1f}x as many tokens per second as {other.name}; the text differs from "
        f"{other.name}'s. {_reason(best, other)}"
    )


def _reason(first: Entry, second: Entry) -> str:
    """Tokens per forward and the time per forward: the ratio of the rates follows from these two."""
    if first.strategy == "ar" and second.strategy != "ar":
        first, second = second, first  # the sentence is about the lane that is not AR, faster or not
    cost = first.seconds_per_forward / second.seconds_per_forward
    return (
        f"{first.name} decoded {first.metrics.tokens_per_forward:.1f} tokens per forward, {second.name} "
        f"{second.metrics.tokens_per_forward:.1f}; a forward of {first.name} took {cost:.1f}x the time of one of "
        f"{second.name}."
    )
