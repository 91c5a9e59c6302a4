"""Frames: the reports of a lane while it decodes. They are kept in the log of the run and sent to the page as JSON.

The events have the trace format (docs/trace-format.md), so the page, an exported file and the replay file read the
same arrays. A lane reports, in order, one LaneOpened, a LaneEvent for each event, and one LaneDone. The last frame of a
run is its Summary.

Token texts are strings from the tokenizer and may contain any character. Never parse them as markup.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.trace.events import DecodeEvent, Finish
from nbdiff_engine.trace.metrics import Metrics, measure
from nbdiff_engine.trace.trace_file import Trace, pack, token_ids_of
from playground.race.race_file import Race, RaceLane
from playground.server.lane_models import LaneJob
from playground.server.worker import Frame, Logged

_IN_LATER_FRAMES = ("events", "pieces", "bytes", "answer_pieces")  # the entries of a trace that other frames hold


@dataclass(frozen=True, slots=True)
class LaneOpened:
    """The first frame of a lane. header: its trace, without events and the texts of tokens."""

    name: str
    about: str
    header: Trace
    context: str | None
    token_shift: bool

    def to_json(self) -> dict[str, Any]:
        header = self.header.to_json()
        return {
            "kind": "open",
            "name": self.name,
            "about": self.about,
            "header": {key: value for key, value in header.items() if key not in _IN_LATER_FRAMES},
            "context": self.context,
            "token_shift": self.token_shift,
        }


@dataclass(frozen=True, slots=True)
class LaneEvent:
    """An event, and the texts of the tokens that the lane has not sent before, by token id.

    partial_bytes: the bytes of those that begin or end within a character.
    """

    event: DecodeEvent
    pieces: dict[int, str]
    partial_bytes: dict[int, bytes]

    def to_json(self) -> dict[str, Any]:
        pieces = {str(token): text for token, text in self.pieces.items()}
        frame = {"kind": "event", "event": pack(self.event), "pieces": pieces}
        if self.partial_bytes:
            frame["bytes"] = {str(token): each.hex() for token, each in self.partial_bytes.items()}
        return frame


@dataclass(frozen=True, slots=True)
class LaneDone:
    """The lane has finished. text: the decoded answer; answer_pieces: the text that each of its tokens adds."""

    metrics: Metrics
    text: str
    answer_pieces: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "done",
            "metrics": dataclasses.asdict(self.metrics),
            "text": self.text,
            "answer_pieces": list(self.answer_pieces),
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """The last frame of a run, after all lanes are done."""

    verdict: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "summary", "verdict": self.verdict}


def lane_frames(
    name: str, about: str, job: LaneJob, events: Callable[[], Iterator[DecodeEvent]] | None = None
) -> Generator[Frame, None, None]:
    """Decode a checked request with one prompt. After `close`, the generator stops within one forward.

    events: opens the stream of events; None: `job.events`. A fork has a different stream.
    """
    yield _opened(name, about, job)
    known: set[int] = set()
    seen: list[DecodeEvent] = []
    with closing((events or job.events)()) as stream:
        for event in stream:
            seen.append(event)
            new = token_ids_of([event]) - known
            known |= new
            yield LaneEvent(event, job.pieces_of(sorted(new)), job.partial_bytes_of(sorted(new)))
    last = seen[-1]
    assert isinstance(last, Finish)
    yield LaneDone(measure(seen), job.text_of(last.token_ids), tuple(job.answer_pieces(last.token_ids)))


def _opened(name: str, about: str, job: LaneJob) -> LaneOpened:
    spec = job.model.spec
    return LaneOpened(
        name=name,
        about=about,
        header=dataclasses.replace(job.trace(0, []), pieces={}, partial_bytes={}),
        context=None if spec is None else spec.context,
        token_shift=spec is None or spec.token_shift,
    )


def race_of(log: Iterable[Logged], title: str) -> Race:
    """The race in the log of a run: every lane that has started, with its events so far."""
    opened: dict[int, LaneOpened] = {}
    events: dict[int, list[DecodeEvent]] = {}
    pieces: dict[int, dict[int, str]] = {}
    partial_bytes: dict[int, dict[int, bytes]] = {}
    done: dict[int, LaneDone] = {}
    verdict = ""
    for logged in log:
        number = logged.part
        match logged.frame:
            case Summary() as summary:
                verdict = summary.verdict
            case LaneOpened() as frame:
                opened[number], events[number], pieces[number], partial_bytes[number] = frame, [], {}, {}
            case LaneEvent() as frame:
                events[number].append(frame.event)
                pieces[number].update(frame.pieces)
                partial_bytes[number].update(frame.partial_bytes)
            case LaneDone() as frame:
                done[number] = frame
    lanes = []
    for number, first in sorted(opened.items()):
        last = done.get(number)
        lanes.append(
            RaceLane(
                name=first.name,
                about=first.about,
                trace=dataclasses.replace(
                    first.header,
                    events=tuple(events[number]),
                    pieces=pieces[number],
                    partial_bytes=partial_bytes[number],
                    answer_pieces=() if last is None else last.answer_pieces,
                ),
                context=first.context,
                token_shift=first.token_shift,
                metrics=None if last is None else last.metrics,
                text="" if last is None else last.text,
            )
        )
    return Race(title, verdict, tuple(lanes))
