"""The verdict on a race in words, with its reason, whoever won."""

from collections.abc import Iterable
from dataclasses import dataclass

from nbdiff_engine.trace.metrics import Metrics
from playground.race.frames import Summary, race_of
from playground.race.race_file import Race
from playground.server.worker import Logged

TIE = 1.05  # rates closer than this are no difference that one run can show


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished lane, as the verdict weighs it."""

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
    """The last frame of a run: its verdict."""
    return Summary(verdict(entries(race_of(log, ""))))


def entries(race: Race) -> list[Entry]:
    """The lanes of a race that were decoded to their end."""
    return [
        Entry(lane.name, lane.strategy, lane.metrics, lane.trace.token_ids)
        for lane in race.lanes
        if lane.metrics is not None
    ]


def verdict(lanes: list[Entry]) -> str:
    """One or two sentences on who was fastest in this run, and why.

    Rates are compared, not totals: answers differ in length. The first AR lane is the baseline; without one the
    two fastest are set against each other.
    """
    if len(lanes) < 2:
        return ""
    short = [lane.name for lane in lanes if not lane.rate]
    if short:
        return f"No verdict: the answer of {' and of '.join(short)} is too short to have a rate."
    ranked = sorted(lanes, key=lambda lane: -lane.rate)
    baseline = next((lane for lane in lanes if lane.strategy == "ar"), None)
    best = ranked[0]
    other = ranked[1] if baseline is None or best is baseline else baseline
    ratio = best.rate / other.rate
    same = best.tokens == other.tokens
    if ratio < TIE:
        return f"A tie between {best.name} and {other.name} in this run. {_reason(best, other)}"
    if same:
        return (
            f"{best.name} finished {ratio:.1f}x sooner than {other.name} with the same tokens. {_reason(best, other)}"
        )
    return (
        f"{best.name} wrote {ratio:.1f}x as many tokens a second as {other.name}, with other tokens than "
        f"{other.name}'s. {_reason(best, other)}"
    )


def _reason(first: Entry, second: Entry) -> str:
    """Tokens a forward and the cost of a forward: their quotient is the ratio of the rates."""
    if first.strategy == "ar" and second.strategy != "ar":
        first, second = second, first  # said of the lane that is not AR, whether it won or lost
    cost = first.seconds_per_forward / second.seconds_per_forward
    each = f"each forward took {cost:.1f}x the time of one of {second.name}"
    return f"{first.name} made {_tokens(first)}, and {each}, which made {_tokens(second)}."


def _tokens(lane: Entry) -> str:
    return f"{lane.metrics.tokens_per_forward:.1f} tokens per forward"
