"""Decode events as JSON frames: what a run's log holds, what the page is sent, and what a race file is made of.

The events themselves are those of the trace format (docs/trace-format.md), so the wire, an exported file and the
replay page hold the same arrays. A lane's frames, in order:

    open      name, about, header (a trace without events and pieces), context, token_shift
    event     event (packed), pieces (token id to text, only what the lane has not sent before)
    done      metrics, text

Token texts are plain strings out of the tokenizer and may hold anything: whoever shows them must not parse them.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from nbdiff_engine.generate import DecodeJob as Job
from nbdiff_engine.trace.events import DecodeEvent, Finish
from nbdiff_engine.trace.metrics import measure
from nbdiff_engine.trace.trace_file import pack, token_ids_of
from playground.server.worker import Frame

RACE_FORMAT, RACE_VERSION = "nbdiff-race", 1


def lane_frames(
    name: str, about: str, job: Job, events: Callable[[], Iterator[DecodeEvent]] | None = None
) -> Generator[Frame, None, None]:
    """Decode a checked request of one prompt. Closing the generator stops within one forward.

    events: opens the events where they are not simply the job's own, as in a fork.
    """
    yield open_frame(name, about, job)
    known: set[int] = set()
    seen: list[DecodeEvent] = []
    with closing((events or job.events)()) as stream:
        for event in stream:
            seen.append(event)
            new = token_ids_of([event]) - known
            known |= new
            yield {"kind": "event", "event": pack(event), "pieces": _pieces(job, new)}
    last = seen[-1]
    assert isinstance(last, Finish)
    yield {
        "kind": "done",
        "metrics": dataclasses.asdict(measure(seen)),
        "text": job.text_of(last.token_ids),
    }


def open_frame(name: str, about: str, job: Job) -> Frame:
    """What a lane says of itself before it decodes."""
    header = job.trace(0, []).to_json()
    spec = job.model.spec
    return {
        "kind": "open",
        "name": name,
        "about": about,
        "header": {key: value for key, value in header.items() if key not in ("events", "pieces")},
        "context": None if spec is None else spec.context,
        "token_shift": spec is None or spec.token_shift,
    }


def _pieces(job: Job, tokens: Iterable[int]) -> dict[str, str]:
    tokenizer = job.model.tokenizer
    return {str(token): tokenizer.decode([token]) for token in sorted(tokens)}


def race(frames: Iterable[Frame], title: str) -> dict[str, Any]:
    """The race file of a run's log: every lane that was opened, as a whole trace with what stands beside it."""
    lanes: dict[int, dict[str, Any]] = {}
    verdict = ""
    for frame in frames:
        if frame["kind"] == "summary":
            verdict = frame["verdict"]
        elif frame["kind"] == "open":
            lanes[frame["lane"]] = {
                "name": frame["name"],
                "about": frame["about"],
                "trace": {**frame["header"], "pieces": {}, "events": []},
                "context": frame["context"],
                "token_shift": frame["token_shift"],
                "metrics": None,
                "text": "",
            }
        elif frame["kind"] == "event":
            trace = lanes[frame["lane"]]["trace"]
            trace["events"].append(frame["event"])
            trace["pieces"].update(frame["pieces"])
        elif frame["kind"] == "done":
            lanes[frame["lane"]] |= {"metrics": frame["metrics"], "text": frame["text"]}
    return {
        "format": RACE_FORMAT,
        "version": RACE_VERSION,
        "title": title,
        "verdict": verdict,
        "lanes": [lanes[number] for number in sorted(lanes)],
    }
