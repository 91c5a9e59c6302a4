"""The verdict on a race, in words: the work that each lane needed, whether the text is AR's, and the time.

It claims only what repeats. Forwards are counted, so they repeat. A time is measured once: it is taken from the median
forward (see forward_times), it makes no wider forward cheaper than a narrower one, and a difference that the spread of
the forwards can explain is none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.decoding.settings import SETTING_FIELDS
from nbdiff_engine.trace.metrics import Metrics
from nbdiff_engine.trace.trace_file import Trace
from playground.page_words import counted
from playground.race.forward_times import Forward, forwards_of, mean_width, same_work, time_of
from playground.race.frames import Summary, race_of
from playground.race.race_file import Race
from playground.server.worker import Logged

TIE = 1.15  # a smaller ratio of times is not shown as a difference
NO_DIFFERENCE = "no measurable difference"
_GIVES_AR_TEXT = ("ar", "self_speculative")
_ROUNDING = "In bfloat16, forwards of different widths round differently; in float32 the texts are the same."


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished lane: what the verdict compares.

    ar_run: what decides the text of a strategy that gives AR's, the model and the sampling; None for other strategies.
    """

    name: str
    strategy: str
    metrics: Metrics
    tokens: tuple[int, ...]
    forwards: tuple[Forward, ...]
    ar_run: tuple[Any, ...] | None = None

    @property
    def per_forward(self) -> float | None:
        return self.metrics.tokens_per_forward


def summary(log: Iterable[Logged]) -> Summary:
    """The last frame of a run, with its verdict."""
    return Summary(verdict(entries(race_of(log, ""))))


def entries(race: Race) -> list[Entry]:
    """The finished lanes of a race."""
    return [
        Entry(
            lane.name,
            lane.strategy,
            lane.metrics,
            lane.trace.token_ids,
            tuple(forwards_of(lane.trace.events)),
            _ar_run(lane.trace) if lane.strategy in _GIVES_AR_TEXT else None,
        )
        for lane in race.lanes
        if lane.metrics is not None
    ]


def _ar_run(trace: Trace) -> tuple[Any, ...]:
    """The model, the prompt, and the settings that AR reads."""
    read = [
        name for name, each in SETTING_FIELDS.items() if each.form.strategies is None or "ar" in each.form.strategies
    ]
    return (trace.model, trace.prompt_ids, *((name, trace.settings.get(name)) for name in read if name != "strategy"))


def verdict(lanes: list[Entry]) -> str:
    """One or two sentences. The first AR lane is the baseline; without one, the best lane is compared with the second.

    Lanes are ranked by tokens per forward, because the answers differ in length.
    """
    if len(lanes) < 2:
        return ""
    short = [lane.name for lane in lanes if not lane.per_forward]
    if short:
        return f"No verdict: the answer of {' and of '.join(short)} is too short to compare."
    ranked = sorted(lanes, key=lambda lane: -lane.per_forward)
    best, last = ranked[0], ranked[-1]
    if all(same_work(lane.forwards, best.forwards) for lane in lanes):
        same = "the same text" if _agree(lanes) else "but not the same text"
        which = "Both lanes" if len(lanes) == 2 else f"All {len(lanes)} lanes"
        return f"{which} did equal work, {_forwards(best)} each, with {same}: {NO_DIFFERENCE}."
    if last.per_forward == best.per_forward:
        return f"All lanes decoded {best.per_forward:.1f} tokens per forward. {_times(best, last)}"
    baseline = next((lane for lane in lanes if lane.strategy == "ar"), None)
    other = ranked[1] if baseline is None or best is baseline else baseline
    text = f"the same text as {other.name}" if best.tokens == other.tokens else f"the text differs from {other.name}'s"
    joint = "with" if best.tokens == other.tokens else "but"
    if same_work(best.forwards, other.forwards):
        return f"{best.name} and {other.name} did equal work, {_forwards(best)} each: {NO_DIFFERENCE}; {text}."
    if best.per_forward == other.per_forward:
        work = f"{best.name} and {other.name} decoded {best.per_forward:.1f} tokens per forward each"
    else:
        fewer = best.per_forward / other.per_forward
        work = f"{best.name} needed {fewer:.1f}x fewer forwards per token than {other.name}"
        if best.metrics.output_tokens == other.metrics.output_tokens:
            counts = f"{best.metrics.decode_forwards} instead of {other.metrics.decode_forwards}"
            work = f"{best.name} needed {fewer:.1f}x fewer forwards than {other.name}, {counts}"
    rounded = best.tokens != other.tokens and best.ar_run is not None and best.ar_run == other.ar_run
    return " ".join([f"{work}, {joint} {text}.", *([_ROUNDING] if rounded else []), _times(best, other)])


def _times(best: Entry, other: Entry) -> str:
    """The time of both lanes, by the median forward."""
    mine, its = time_of(best.forwards), time_of(other.forwards)
    if mine is None or its is None:
        return "They are too few forwards to compare times."
    # Seconds per token. A wider forward does more work: if it was measured cheaper, the machine was busy meanwhile.
    cost = mine.median / its.median
    wider = mean_width(best.forwards) - mean_width(other.forwards)
    doubtful = wider * (cost - 1) < 0
    if doubtful:
        cost = 1.0
    fewer = best.per_forward / other.per_forward
    ratio = fewer / cost
    # The claim must hold even with the quartiles that are worst for it.
    spread = (its.low / mine.high if ratio > 1 else mine.low / its.high) * (fewer if ratio > 1 else 1 / fewer)
    if max(ratio, 1 / ratio) < TIE or spread <= 1:
        return f"In time this run shows {NO_DIFFERENCE}."
    same_text = best.tokens == other.tokens
    faster = "faster" if same_text else "faster per token"
    because = (
        f"a forward of {best.name} took about as long as one of {other.name}"
        if doubtful or abs(cost - 1) < TIE - 1
        else f"a forward of {best.name} took {cost:.1f}x the time of one of {other.name}"
    )
    if ratio > 1:
        return f"By the median forward it was about {ratio:.1f}x {faster}: {because}."
    return f"By the median forward {other.name} was nevertheless about {1 / ratio:.1f}x {faster}: {because}."


def _agree(lanes: list[Entry]) -> bool:
    return all(lane.tokens == lanes[0].tokens for lane in lanes)


def _forwards(lane: Entry) -> str:
    return counted(lane.metrics.decode_forwards, "forward")
