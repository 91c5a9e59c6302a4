"""The scheduler: one thread owns the model and decodes all requests in one running batch.

Requests wait in a queue with a limit. A row is admitted when the keys and values that it may need fit into the budget
beside those of the rows that run; it leaves within one forward after it is cancelled. Events go to the function that
the request gave, on the decoding thread: that function must return at once.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nbdiff_engine.decoding.batch import RunningBatch
from nbdiff_engine.decoding.prefix_cache import PrefixCache
from nbdiff_engine.decoding.row import AnswerRow
from nbdiff_engine.errors import NBDiffError, PromptError, SettingError
from nbdiff_engine.generate import DecodeJob, prepare
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.kv_cache import SlotCache
from nbdiff_engine.trace.events import DecodeEvent

logger = logging.getLogger(__name__)

_PREPARED_AT_ONCE = 4  # requests between two forwards: to encode a long prompt takes milliseconds


class RequestQueueFullError(NBDiffError):
    """The server has as many waiting requests as it allows."""


class ServerStoppedError(NBDiffError):
    """The server is being stopped."""

    def __init__(self) -> None:
        super().__init__("This server is being stopped; ask again later.")


class DecodingError(RuntimeError):
    """A forward failed; the log of the server has the reason."""


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The limits of one server. queue: waiting requests. rows: answers that are decoded together. cache_bytes: keys and
    values of these. prefix_bytes: those kept of ended answers; 0: none. prefill_tokens: of long prompts, in a forward.
    """

    queue: int = 256
    rows: int = 16
    cache_bytes: int = 2 << 30
    prefix_bytes: int = 512 << 20
    prefill_tokens: int = 128


# What a request's function receives: the checked job first, then events, or one exception.
Delivery = DecodeJob | list[DecodeEvent] | Exception


class Request:
    """One prompt and its `copies` answers; the events of answer i have row i."""

    def __init__(
        self, make: Callable[[], DecodeJob], copies: int, deliver: Callable[[Delivery], None], shares_prefixes: bool
    ):
        self.make = make
        self.copies = copies
        self.deliver = deliver
        self.shares_prefixes = shares_prefixes
        self.cancelled = False  # set by any thread, read by the decoding thread
        self.waiting: list[AnswerRow] = []  # rows that are not admitted yet
        self.running: list[AnswerRow] = []
        self.cached_tokens = 0  # of its prompts, that were not read


class Scheduler:
    """Decodes requests. `submit` and `cancel` are thread-safe. Call `start` once, and `close` at the end."""

    def __init__(self, model: BlockModel, limits: SchedulerLimits | None = None):
        self.model = model
        self.limits = limits or SchedulerLimits()
        self.prefixes = PrefixCache(self.limits.prefix_bytes) if self.limits.prefix_bytes else None
        self.forwards = 0
        self._changed = threading.Condition()
        self._new: deque[Request] = deque()  # submitted, not prepared
        self._ready: deque[Request] = deque()  # prepared, with rows that are not admitted
        self._active: list[Request] = []  # with rows that run
        self._slot_bytes = 0
        self._batch = self._new_batch()
        self._stopped = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="decoding", daemon=True)

    def require_room(self, tokens: int) -> None:
        """Raise SettingError if the cache cannot hold the shortest prompt with an answer of up to `tokens` tokens. Call
        it before `start`."""
        job = prepare(self.model, [self._any_token()], max_new_tokens=tokens)
        needed = math.ceil(self._bytes([AnswerRow(0, job.prompts[0], job.plan)]) / 1e6)
        if needed * 10**6 > self.limits.cache_bytes:
            raise SettingError(
                f"An answer of up to {tokens} tokens needs {needed} MB of keys and values, and --cache-mb is "
                f"{self.limits.cache_bytes / 1e6:.0f}; give at least {needed}, or fewer --max-tokens."
            )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End all requests with ServerStoppedError, the running ones after the current forward; refuse further ones."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel all requests and end the thread. Returns after the current forward."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def submit(
        self,
        make: Callable[[], DecodeJob],
        copies: int,
        deliver: Callable[[Delivery], None],
        shares_prefixes: bool = True,
    ) -> Request:
        """Put a request into the queue. make: checks it and encodes its prompt, on the decoding thread. copies: 0 only
        checks it. shares_prefixes: whether its rows use the prefix cache.

        Raises RequestQueueFullError, or ServerStoppedError.
        """
        with self._changed:
            if self._stopped:
                raise ServerStoppedError
            if self.waiting >= self.limits.queue:
                waiting = "one request is" if self.waiting == 1 else f"{self.waiting} requests are"
                raise RequestQueueFullError(f"This server is busy: {waiting} waiting; try again later.")
            request = Request(make, copies, deliver, shares_prefixes)
            self._new.append(request)
            self._changed.notify_all()
            return request

    def cancel(self, request: Request) -> None:
        """Its rows leave after the current forward at the latest. Does nothing to a request that has ended."""
        with self._changed:
            request.cancelled = True
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Requests of which no answer has begun."""
        return len(self._new) + len(self._ready)

    @property
    def running(self) -> int:
        """Answers that are decoded now."""
        return len(self._batch.rows)

    @property
    def held_bytes(self) -> int:
        """Bytes of the keys and values of the running answers."""
        return self._batch.held_bytes

    @property
    def prefix_bytes(self) -> int:
        """Bytes of the keys and values that are kept of ended answers."""
        return 0 if self.prefixes is None else self.prefixes.bytes

    # -- the decoding thread ------------------------------------------------------------------------------

    def _new_batch(self) -> RunningBatch:
        return RunningBatch(self.model, prefill_tokens=self.limits.prefill_tokens, prefixes=self.prefixes)

    def _work(self) -> None:
        while self._wait():
            try:
                if self._stopped:
                    self._end_all()
                self._remove_cancelled()
                self._prepare()
                self._admit()
                if self._batch.rows:
                    self._batch.tick()
                    self.forwards += 1
            except Exception:  # a forward may raise anything, such as a lack of memory; the next requests must run
                logger.exception("decoding failed")
                self._fail()
            self._report()

    def _wait(self) -> bool:
        """Wait for work. False if the scheduler is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._new or self._ready or self._active)
            return not self._closed

    def _remove_cancelled(self) -> None:
        for request in self._active:
            if request.cancelled:
                for row in request.running:
                    self._batch.leave(row)
                request.running.clear()
        self._active = [each for each in self._active if each.running]
        self._ready = deque(each for each in self._ready if not each.cancelled)

    def _prepare(self) -> None:
        for _ in range(_PREPARED_AT_ONCE):
            with self._changed:
                if not self._new:
                    return
                request = self._new.popleft()
            if request.cancelled:
                continue
            try:
                job = request.make()
                rows = [AnswerRow(index, job.prompts[0], job.plan) for index in range(max(request.copies, 1))]
                self._check_size(rows[0])
                request.waiting = rows[: request.copies]
            except Exception as error:
                if not isinstance(error, NBDiffError):
                    logger.exception("a request could not be prepared")
                    error = DecodingError("This request could not be prepared; the log of the server has the reason.")
                self._deliver(request, error)
                continue
            self._deliver(request, job)
            if request.waiting:
                self._ready.append(request)

    def _admit(self) -> None:
        """Let the waiting rows join, in their order, as long as they fit."""
        while self._ready:
            request = self._ready[0]
            while request.waiting:
                row = request.waiting[0]
                rows = [*self._batch.rows, row]
                if len(rows) > self.limits.rows or (len(rows) > 1 and self._bytes(rows) > self.limits.cache_bytes):
                    return
                row.batch, row.shares_prefixes = len(rows), request.shares_prefixes
                request.waiting.pop(0)
                request.running.append(row)
                if request not in self._active:
                    self._active.append(request)
                self._batch.join(row)
                request.cached_tokens += row.cached
            self._ready.popleft()

    def _bytes(self, rows: list[AnswerRow]) -> int:
        """The most bytes of keys and values that these rows can take."""
        if not self._slot_bytes:
            session = self.model.open(1, 64)
            session.prefill([[self._any_token()]])
            self._slot_bytes = session.cache.held_bytes // session.cache.capacity
        return self._slot_bytes * SlotCache.most_slots(len(rows), self._batch.room(rows))

    def _any_token(self) -> int:
        return next(token for token in range(64) if token not in self.model.never_predicted)

    def _check_size(self, row: AnswerRow) -> None:
        needed = self._bytes([row])
        if needed > self.limits.cache_bytes:
            raise PromptError(
                f"The prompt of {len(row.prompt)} tokens and an answer of up to {row.limit} need {needed / 1e6:.0f} MB "
                f"of keys and values; this server has {self.limits.cache_bytes / 1e6:.0f} MB. Ask for fewer tokens."
            )

    def _report(self) -> None:
        """Deliver the events of the last tick."""
        running = {id(row) for row in self._batch.rows}
        for request in self._active:
            events = [event for row in request.running for event in row.drain()]
            request.running = [row for row in request.running if id(row) in running]
            if events:
                self._deliver(request, events)
        self._active = [each for each in self._active if each.running]

    def _fail(self) -> None:
        """End all rows of the batch with an error."""
        self._end(self._active, DecodingError("Decoding failed; the log of the server has the reason."))

    def _end_all(self) -> None:
        """End all requests, because the server is being stopped."""
        with self._changed:
            new = list(self._new)
            self._new.clear()
        waiting = [each for each in self._ready if each not in self._active]
        self._end([*self._active, *waiting, *new], ServerStoppedError())

    def _end(self, requests: list[Request], error: Exception) -> None:
        """End requests with an error, those that run among them."""
        self._active = []
        self._batch = self._new_batch()
        self._ready = deque(each for each in self._ready if each not in requests)
        for request in requests:
            request.running.clear()
            self._deliver(request, error)

    def _deliver(self, request: Request, what: Delivery) -> None:
        if request.cancelled:
            return
        try:
            request.deliver(what)
        except Exception:  # the reader does not exist any more, for example its event loop is closed
            logger.debug("a request has no reader any more", exc_info=True)
            request.cancelled = True
