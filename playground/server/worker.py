"""One thread that owns all decoding. Visitors only leave requests and read what has happened so far.

A Gradio event dies with its browser tab, and a generation must neither die in the middle of a forward nor live
on unwatched. So a run belongs to the worker: it decodes one part after another, each alone so that its clock is
fair, appends every frame to the run's log, and never waits for a reader. Readers poll the log; a poll renews the
reader's lease, and a run whose last lease has ended is ended, at the latest one forward later.

The worker knows nothing of models: a part of a run is a way to open its frames, and a frame is whatever can say itself
as JSON.
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

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "finished", "stopped", "failed", "unknown"]

FRAMES_PER_REPLY = 400  # a late reader catches up over several polls, none of them large
MOST_VIEWERS = 64  # leases of one run
HOUSEKEEPING_SECONDS = 1.0

_SUBMITTER = ""  # stands for the visitor who asked for a run, until the first poll arrives


class Frame(Protocol):
    """Something that a part of a run reports: see playground.race.frames and playground.sweep.sweep_frames."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for the browser."""


class QueueFullError(ValueError):
    """As many runs wait as this server allows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on."""

    queue: int = 8
    wall_seconds: float = 120.0
    lease_seconds: float = 5.0
    settle_seconds: float = 0.25  # before each part, while the page paints what came before: the clock is to be fair
    keep_seconds: float = 600.0  # an ended run can still be read for so long
    keep_runs: int = 16  # and at most so many of them are kept
    log_bytes: int = 4_000_000  # of one run, as JSON; an answer of 512 tokens takes some 0.4 MB


@dataclass(frozen=True, slots=True)
class RunPart:
    """A part of a run: a lane of a race, a model of a sweep. `frames` opens its frames; closing them stops its work."""

    name: str
    frames: Callable[[], Generator[Frame, None, None]]


@dataclass(frozen=True, slots=True)
class Logged:
    """A frame in a run's log. part: the number of the part that reported it, None for the run's summary."""

    frame: Frame
    part: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The frame as the browser is sent it; the page calls a part a lane."""
        said = self.frame.to_json()
        return said if self.part is None else {"lane": self.part, **said}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a poll learns. frames: those from the asked cursor on; cursor: where to ask next.

    ahead: how many runs come before this one, while it is queued. more: there are frames beyond this reply.
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


UNKNOWN = Reply("unknown", message="This run is not known here any more; press Run to start it anew.")


@dataclass(slots=True, eq=False)
class _Run:
    """The state of one run. Read and written under the worker's lock."""

    id: str
    parts: Sequence[RunPart]
    summary: Callable[[Sequence[Logged]], Frame] | None
    viewers: dict[str, float]  # viewer id to the time of its last poll
    state: State = "queued"
    message: str = ""
    log: list[Logged] = field(default_factory=list)
    log_bytes: int = 0
    since: float = 0.0  # when the current state began

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")


class Worker:
    """The server's one decoding thread and its queue. Thread-safe; `start` it once, `close` it at the end."""

    def __init__(
        self,
        limits: Limits | None = None,
        warm_up: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """warm_up: called on the decoding thread before the first run, whose figures it keeps honest."""
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
        """End every run and the thread; returns when the forward under way is done."""
        with self._changed:
            self._closed = True
            for run in self._runs.values():
                if run.live:
                    self._end(run, "stopped", "The server was shut down.")
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # -- what visitors ask -------------------------------------------------------------------------------

    def submit(self, parts: Sequence[RunPart], summary: Callable[[Sequence[Logged]], Frame] | None = None) -> str:
        """Queue a run and return its id. `summary` makes one last frame of all frames, once every part is done.

        Raises QueueFullError.
        """
        with self._changed:
            self._sweep()
            if len(self._waiting) >= self.limits.queue:
                raise QueueFullError(f"This server is busy: {len(self._waiting)} runs wait already; try again soon.")
            now = self._clock()
            run = _Run(secrets.token_urlsafe(16), parts, summary, {_SUBMITTER: now}, since=now)
            self._runs[run.id] = run
            self._waiting.append(run)
            self._changed.notify_all()
            return run.id

    def poll(self, run_id: str, viewer: str, cursor: int) -> Reply:
        """The frames from `cursor` on; renews the viewer's lease. A cursor out of range reads nothing, or all."""
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
        """Give up a lease at once. The last viewer to leave ends the run."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is not None and run.live and run.viewers.pop(viewer, None) is not None and not run.viewers:
                self._end(run, "stopped", "Nobody was watching.")

    def stop(self, run_id: str) -> None:
        """End a run; one that is over, or unknown, is left as it is."""
        with self._changed:
            run = self._runs.get(run_id)
            if run is not None and run.live:
                self._end(run, "stopped", "Stopped.")

    def log(self, run_id: str) -> list[Logged]:
        """All frames of a run so far; none for a run that is not known."""
        with self._changed:
            return list(self._runs[run_id].log) if run_id in self._runs else []

    def is_live(self, run_id: str) -> bool:
        """Whether a run waits or decodes."""
        with self._changed:
            return run_id in self._runs and self._runs[run_id].live

    # -- the decoding thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        if self._warm_up is not None:
            try:
                self._warm_up()
            except Exception:  # whatever it is will be said again, to a visitor, by the run that meets it
                logger.exception("the warm-up failed")
        while (run := self._next()) is not None:
            try:
                self._decode(run)
            except Exception:  # a part may raise anything, and the worker must outlive it
                logger.exception("run %s failed", run.id)
                with self._changed:
                    self._end(run, "failed", "Decoding failed on the server, whose log says why; other runs go on.")

    def _next(self) -> _Run | None:
        """The next run that somebody still waits for; None once the worker is closed."""
        with self._changed:
            self._running = None
            while not self._closed:
                self._sweep()
                if self._waiting:
                    self._running = run = self._waiting.popleft()
                    run.state, run.since = "running", self._clock()
                    return run
                self._changed.wait(HOUSEKEEPING_SECONDS)
            return None

    def _decode(self, run: _Run) -> None:
        for number, part in enumerate(run.parts):
            if not self._settle(run):
                return
            with closing(part.frames()) as frames:
                for frame in frames:
                    if not self._record(run, Logged(frame, number)):
                        return
        if run.summary is not None:
            self._record(run, Logged(run.summary(run.log)))
        with self._changed:
            self._end(run, "finished")

    def _settle(self, run: _Run) -> bool:
        """Wait until the page has painted the click or the part before. False if the run ended meanwhile.

        Painting takes a core that a lane would decode on: without this, the lane that came first was measured
        with twice the prefill time of the second (9 ms against 4; 6 against 6 with it), on two cores.
        """
        with self._changed:
            return not self._changed.wait_for(lambda: not run.live, self.limits.settle_seconds)

    def _record(self, run: _Run, logged: Logged) -> bool:
        """Append a frame. False when the run is over instead: stopped, unwatched, or beyond a limit."""
        size = len(json.dumps(logged.to_json()))
        with self._changed:
            now = self._clock()
            if run.live and self._is_unwatched(run, now):
                self._end(run, "stopped", "Nobody was watching.")
            elif run.live and now - run.since > self.limits.wall_seconds:
                limit = f"{self.limits.wall_seconds:g} s"
                self._end(run, "stopped", f"The run was ended after {limit}, the most that this server allows.")
            elif run.live and run.log_bytes + size > self.limits.log_bytes:
                limit = f"{self.limits.log_bytes / 1e6:g} MB"
                self._end(run, "stopped", f"The run was ended after {limit} of trace, the most that this server keeps.")
            if run.live:
                run.log.append(logged)
                run.log_bytes += size
            return run.live

    # -- under the lock ----------------------------------------------------------------------------------

    def _is_unwatched(self, run: _Run, now: float) -> bool:
        return all(now - seen > self.limits.lease_seconds for seen in run.viewers.values())

    def _end(self, run: _Run, state: State, message: str = "") -> None:
        """The end of a live run; what is over stays as it is."""
        if not run.live:
            return
        if run.state == "queued":
            self._waiting.remove(run)
        run.state, run.message, run.since = state, message, self._clock()
        run.viewers.clear()
        self._changed.notify_all()

    def _sweep(self) -> None:
        """End queued runs that nobody waits for, and forget runs that ended long ago."""
        now = self._clock()
        for run in [run for run in self._waiting if self._is_unwatched(run, now)]:
            self._end(run, "stopped", "Nobody was watching.")
        over = [run for run in self._runs.values() if not run.live]
        surplus = len(over) - self.limits.keep_runs
        for age, run in enumerate(over):
            if age < surplus or now - run.since > self.limits.keep_seconds:
                del self._runs[run.id]
