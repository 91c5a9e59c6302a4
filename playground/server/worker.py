"""The worker: one thread decodes all runs; requests of visitors wait in its queue.

Gradio cancels an event when its browser tab closes, so the worker owns the run. It decodes one part at a time, so that
parts do not share the processor, and appends every frame to the log of the run. It never waits for a reader. Readers
poll the log; each poll renews the reader's lease. A run without a valid lease is stopped, at the latest one forward
later.

The worker does not depend on models: a part of a run is a function that opens a generator of frames, and a frame is an
object with `to_json`.
"""

import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from nbdiff_engine import NBDiffError

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "finished", "stopped", "failed", "unknown"]

FRAMES_PER_REPLY = 400  # a late reader gets the log in several small replies
MOST_VIEWERS = 64  # leases per run
HOUSEKEEPING_SECONDS = 1.0
RELOAD_SECONDS = 15.0  # a page that is loaded again polls after at most this time

_SUBMITTER = ""  # the viewer id of the visitor who asked for a run, until the first poll arrives


class Frame(Protocol):
    """A report of a part of a run: see playground.race.frames and playground.sweep.sweep_frames."""

    def to_json(self) -> dict[str, Any]:
        """The frame as plain JSON values, for the browser."""


class QueueFullError(ValueError):
    """The queue has as many runs as this server allows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one server."""

    queue: int = 8
    wall_seconds: float = 120.0
    lease_seconds: float = 5.0
    paint_seconds: float = 0.25  # pause before each part, while the browser paints: see Worker._wait_for_paint
    keep_seconds: float = 600.0  # an ended run can be read for this long
    keep_runs: int = 16  # at most this many ended runs are kept
    log_bytes: int = 4_000_000  # of one run, as JSON; an answer of 512 tokens takes about 0.4 MB


@dataclass(frozen=True, slots=True)
class RunPart:
    """A part of a run: a lane of a race, a model of a sweep. frames: opens its generator; closing it stops the work."""

    name: str
    frames: Callable[[], Generator[Frame, None, None]]


@dataclass(frozen=True, slots=True)
class Logged:
    """A frame in the log of a run. part: number of the part that reported it, None for the summary of the run."""

    frame: Frame
    part: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The frame as the server sends it to the browser. The page calls a part a lane."""
        data = self.frame.to_json()
        return data if self.part is None else {"lane": self.part, **data}


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a poll. frames: from the requested cursor on; cursor: of the next poll.

    ahead: the number of runs before this one in the queue. more: whether the log has frames after these.
    """

    state: State
    frames: Sequence[Logged] = ()
    cursor: int = 0
    ahead: int = 0
    more: bool = False
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "frames": [each.to_json() for each in self.frames],
            "cursor": self.cursor,
            "ahead": self.ahead,
            "more": self.more,
            "message": self.message,
        }


UNKNOWN = Reply("unknown", message="The server does not know this run any more; press Run to start it again.")


@dataclass(slots=True, eq=False)
class _Run:
    """The state of one run. Read and write it only with the worker's lock."""

    id: str
    parts: Sequence[RunPart]
    summary: Callable[[Sequence[Logged]], Frame] | None
    viewers: dict[str, float]  # viewer id to the time of its last poll
    state: State = "queued"
    message: str = ""
    log: list[Logged] = field(default_factory=list)
    log_bytes: int = 0
    since: float = 0.0  # the time when the current state began

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")


class Worker:
    """The decoding thread of the server and its queue. Thread-safe. Call `start` once, and `close` at the end."""

    def __init__(
        self,
        limits: Limits | None = None,
        warm_up: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """warm_up: called on the decoding thread before the first run, so that its times include no one-time costs."""
        self.limits = limits or Limits()
        self._warm_up = warm_up
        self._clock = clock
        self._changed = threading.Condition()
        self._runs: dict[str, _Run] = {}  # in the order they were submitted
        self._waiting: deque[_Run] = deque()
        self._running: _Run | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="decoding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop all runs and the thread. Returns after the current forward."""
        with self._changed:
            self._closed = True
            for run in self._runs.values():
                if run.live:
                    self._end(run, "stopped", "The server was stopped.")
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # -- requests of visitors ----------------------------------------------------------------------------

    def submit(self, parts: Sequence[RunPart], summary: Callable[[Sequence[Logged]], Frame] | None = None) -> str:
        """Put a run into the queue and return its id. Raises QueueFullError.

        summary: makes the last frame of the run from all others, when every part is done.
        """
        with self._changed:
            self._remove_old_runs()
            if len(self._waiting) >= self.limits.queue:
                raise QueueFullError(f"This server is busy: {len(self._waiting)} runs are waiting; try again later.")
            now = self._clock()
            run = _Run(secrets.token_urlsafe(16), parts, summary, {_SUBMITTER: now}, since=now)
            self._runs[run.id] = run
            self._waiting.append(run)
            self._changed.notify_all()
            return run.id

    def poll(self, run_id: str, viewer: str, cursor: int) -> Reply:
        """The frames from `cursor` on; renews the viewer's lease. A cursor out of range is moved to the nearest end."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is None:
                return UNKNOWN
            if run.live:
                run.viewers.pop(_SUBMITTER, None)
                if viewer in run.viewers or len(run.viewers) < MOST_VIEWERS:
                    run.viewers[viewer] = self._clock()
            first = min(max(cursor, 0), len(run.log))
            last = min(first + FRAMES_PER_REPLY, len(run.log))
            ahead = 0
            if run.state == "queued":
                ahead = self._waiting.index(run) + (self._running is not None)
            return Reply(run.state, run.log[first:last], last, ahead, last < len(run.log), run.message)

    def leave(self, run_id: str, viewer: str) -> None:
        """End a lease at once. The run is stopped when its last viewer leaves."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is not None and run.live and run.viewers.pop(viewer, None) is not None and not run.viewers:
                self._end(run, "stopped", "No viewer was connected.")

    def hold(self, run_id: str, viewer: str, seconds: float) -> None:
        """Let a viewer's lease end in `seconds`, sooner or later than its last poll does. Ignores an unknown viewer."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is not None and run.live and viewer in run.viewers:
                run.viewers[viewer] = self._clock() + seconds - self.limits.lease_seconds

    def stop(self, run_id: str) -> None:
        """Stop a run. Does nothing to a run that has ended or is unknown."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is not None and run.live:
                self._end(run, "stopped", "Stopped.")

    def log(self, run_id: str) -> list[Logged]:
        """All frames of a run so far; an empty list for an unknown run."""
        with self._changed:
            return list(self._runs[run_id].log) if run_id in self._runs else []

    def is_live(self, run_id: str) -> bool:
        """Whether a run is queued or running."""
        with self._changed:
            return run_id in self._runs and self._runs[run_id].live

    # -- the decoding thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        if self._warm_up is not None:
            try:
                self._warm_up()
            except Exception:  # the first run raises the same error, which the visitor sees
                logger.exception("the warm-up failed")
        while (run := self._next()) is not None:
            try:
                self._decode(run)
            except NBDiffError as error:  # a sentence for the visitor, such as that of a server that has ended
                with self._changed:
                    self._end(run, "failed", str(error))
            except Exception:  # a part may raise any exception; the worker must continue
                logger.exception("run %s failed", run.id)
                with self._changed:
                    self._end(
                        run, "failed", "Decoding failed; the log of the server has the reason. Other runs continue."
                    )

    def _next(self) -> _Run | None:
        """The next run that has a viewer; None when the worker is closed."""
        with self._changed:
            self._running = None
            while not self._closed:
                self._remove_old_runs()
                if self._waiting:
                    self._running = run = self._waiting.popleft()
                    run.state, run.since = "running", self._clock()
                    return run
                self._changed.wait(HOUSEKEEPING_SECONDS)
            return None

    def _decode(self, run: _Run) -> None:
        for number, part in enumerate(run.parts):
            if not self._wait_for_paint(run):
                return
            with closing(part.frames()) as frames:
                for frame in frames:
                    if not self._record(run, Logged(frame, number)):
                        return
        if run.summary is not None:
            self._record(run, Logged(run.summary(run.log)))
        with self._changed:
            self._end(run, "finished")

    def _wait_for_paint(self, run: _Run) -> bool:
        """Wait until the browser has painted the click or the part before. False if the run has ended meanwhile.

        A browser on the same machine paints on a core that the lane needs. On two cores, the prefill of the first lane
        took 9 ms without this pause and that of the second 4 ms; with it, both took 6 ms.
        """
        with self._changed:
            return not self._changed.wait_for(lambda: not run.live, self.limits.paint_seconds)

    def _record(self, run: _Run, logged: Logged) -> bool:
        """Append a frame. False if the run has ended: stopped, without a viewer, or over a limit."""
        size = len(json.dumps(logged.to_json()))
        with self._changed:
            now = self._clock()
            if run.live and self._has_no_viewer(run, now):
                self._end(run, "stopped", "No viewer was connected.")
            elif run.live and now - run.since > self.limits.wall_seconds:
                limit = f"{self.limits.wall_seconds:g} s"
                self._end(run, "stopped", f"The run was stopped after {limit}, the most that this server allows.")
            elif run.live and run.log_bytes + size > self.limits.log_bytes:
                limit = f"{self.limits.log_bytes / 1e6:g} MB"
                self._end(run, "stopped", f"The run was stopped after {limit} of trace, the most that is allowed here.")
            if run.live:
                run.log.append(logged)
                run.log_bytes += size
            return run.live

    # -- called with the lock ----------------------------------------------------------------------------

    def _has_no_viewer(self, run: _Run, now: float) -> bool:
        return all(now - seen > self.limits.lease_seconds for seen in run.viewers.values())

    def _end(self, run: _Run, state: State, message: str = "") -> None:
        """End a live run. Does nothing to a run that has ended."""
        if not run.live:
            return
        if run.state == "queued":
            self._waiting.remove(run)
        run.state, run.message, run.since = state, message, self._clock()
        run.viewers.clear()
        self._changed.notify_all()

    def _remove_old_runs(self) -> None:
        """Stop queued runs without a viewer, and delete runs that ended long ago."""
        now = self._clock()
        for run in [run for run in self._waiting if self._has_no_viewer(run, now)]:
            self._end(run, "stopped", "No viewer was connected.")
        ended = [run for run in self._runs.values() if not run.live]
        surplus = len(ended) - self.limits.keep_runs
        for age, run in enumerate(ended):
            if age < surplus or now - run.since > self.limits.keep_seconds:
                del self._runs[run.id]
