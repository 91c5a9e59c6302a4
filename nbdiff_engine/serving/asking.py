"""One HTTP request between the event loop and the decoding thread: its prompts go in, chunks come out."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from nbdiff_engine.generate import DecodeJob
from nbdiff_engine.serving.replies import HttpReply
from nbdiff_engine.serving.scheduler import Delivery, Request, Scheduler
from nbdiff_engine.serving.server_metrics import ServerMetrics
from nbdiff_engine.trace.events import Finish


async def checked(scheduler: Scheduler, make: Callable[[], DecodeJob]) -> DecodeJob:
    """A prompt that is checked and encoded, and not decoded. Raises RequestQueueFullError, or what `make` raises."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    request = scheduler.submit(make, 0, lambda what: loop.call_soon_threadsafe(arrived.put_nowait, what))
    try:
        what = await arrived.get()
    finally:
        scheduler.cancel(request)
    if isinstance(what, Exception):
        raise what
    return what


class Asking:
    """The prompts of one HTTP request while they are answered. Used in one event loop; call `close` at the end."""

    def __init__(
        self, scheduler: Scheduler, metrics: ServerMetrics, reply: HttpReply, copies: int, shares_prefixes: bool = True
    ):
        """copies: answers to each prompt. shares_prefixes: whether they use the prefix cache."""
        self.reply = reply
        self._shares_prefixes = shares_prefixes
        self._scheduler, self._metrics, self._copies = scheduler, metrics, copies
        self._arrived: asyncio.Queue[tuple[int, Delivery]] = asyncio.Queue()
        self._requests: list[Request] = []
        self._open = 0  # answers that have not ended
        self._begun = time.perf_counter()
        self._first_text = False
        self._outcome = "cancelled"
        self._closed = False

    def submit(self, makes: list[Callable[[], DecodeJob]]) -> None:
        """Put all prompts into the queue. Raises RequestQueueFullError; then none of them stays in it."""
        loop = asyncio.get_running_loop()
        try:
            for number, make in enumerate(makes):

                def deliver(what: Delivery, number: int = number) -> None:
                    loop.call_soon_threadsafe(self._arrived.put_nowait, (number, what))

                self._requests.append(self._scheduler.submit(make, self._copies, deliver, self._shares_prefixes))
        except BaseException:
            self._outcome = "refused"
            self.close()
            raise
        self._open = self._copies * len(makes)

    async def accepted(self) -> list[dict[str, Any]]:
        """Wait until all prompts are checked and encoded; the chunks that begin the answers. Raises the exception of a
        prompt that cannot be answered."""
        jobs: dict[int, DecodeJob] = {}
        early: list[tuple[int, Delivery]] = []
        while len(jobs) < len(self._requests):
            number, what = await self._arrived.get()
            if isinstance(what, DecodeJob):
                jobs[number] = what
            elif isinstance(what, Exception):
                self._outcome = "refused"
                raise what
            else:
                early.append((number, what))
        for each in early:  # events of the first prompts, which came before the last prompt was encoded
            self._arrived.put_nowait(each)
        chunks = [chunk for number in sorted(jobs) for chunk in self.reply.add_prompt(jobs[number], self._copies)]
        self._metrics.prompt_tokens.inc(sum(len(job.prompts[0]) for job in jobs.values()))
        return chunks

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """What each forward adds, until all answers have ended. Raises the exception of a forward that failed."""
        while self._open:
            number, what = await self._arrived.get()
            if isinstance(what, Exception):
                self._outcome = "failed"
                raise what
            for event in what:
                chunk = self.reply.add(number * self._copies + event.row, event)
                if chunk is not None:
                    if not self._first_text:
                        self._first_text = True
                        self._metrics.first_token.observe(time.perf_counter() - self._begun)
                    yield chunk
                self._open -= isinstance(event, Finish)
        self._outcome = "answered"
        self.reply.cached_tokens = sum(each.cached_tokens for each in self._requests)

    def close(self) -> None:
        """Cancel what has not ended, and count the request. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for request in self._requests:
            self._scheduler.cancel(request)
        cached = sum(each.cached_tokens for each in self._requests)
        self._metrics.cached_tokens.inc(cached)
        self._metrics.answer_tokens.inc(sum(choice.tokens for choice in self.reply.choices))
        self._metrics.seconds.observe(time.perf_counter() - self._begun)
        self._metrics.requests.labels(self._outcome).inc()
