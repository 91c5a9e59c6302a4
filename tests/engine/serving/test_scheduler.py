"""The scheduler: its queue, its memory, what is cancelled and what fails."""

import threading
from functools import partial

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.row import AnswerRow
from nbdiff_engine.errors import PromptError
from nbdiff_engine.model.session import Session
from nbdiff_engine.serving.scheduler import DecodingError, RequestQueueFullError, Scheduler, SchedulerLimits
from nbdiff_engine.trace.events import Finish
from tests.tiny import prompt_ids


class Caller:
    """What one request receives."""

    def __init__(self, scheduler: Scheduler, length: int = 9, tokens: int = 20, copies: int = 1, **settings):
        self.received: list = []
        self.ended = threading.Event()
        self.begun = threading.Event()
        self.make = partial(nb.prepare, scheduler.model, prompt_ids(length, length), max_new_tokens=tokens, **settings)
        self._open = copies
        self.request = scheduler.submit(self.make, copies, self._deliver)

    def _deliver(self, what) -> None:
        self.received.append(what)
        if isinstance(what, list):
            self.begun.set()
            self._open -= sum(isinstance(event, Finish) for event in what)
        if isinstance(what, Exception) or not self._open:
            self.ended.set()

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        """The answers, by row."""
        self.ended.wait(60)
        ends = [
            event for each in self.received if isinstance(each, list) for event in each if isinstance(event, Finish)
        ]
        return [end.token_ids for end in sorted(ends, key=lambda end: end.row)]


@pytest.fixture
def scheduler(llama):
    """One of two rows; a test starts it."""
    found = Scheduler(llama, SchedulerLimits(queue=6, rows=2))
    yield found
    found.close()


def test_more_requests_than_rows_are_answered_as_alone(scheduler):
    callers = [Caller(scheduler, length, strategy="ar") for length in (3, 30, 12, 7, 1)]
    scheduler.start()
    for caller in callers:
        job = caller.make()
        assert caller.tokens == [tuple(job.outputs()[0].token_ids)]
    assert scheduler.running == scheduler.waiting == 0


def test_a_full_queue_refuses_one_more(scheduler):
    callers = [Caller(scheduler) for _ in range(6)]
    with pytest.raises(RequestQueueFullError, match="6 requests are waiting; try again later"):
        Caller(scheduler)
    scheduler.start()
    assert all(caller.tokens for caller in callers)
    assert Caller(scheduler).tokens


def test_a_cancelled_request_frees_its_rows_for_the_next(scheduler):
    long = Caller(scheduler, tokens=240, copies=2)
    scheduler.start()
    assert long.begun.wait(60)
    scheduler.cancel(long.request)
    assert Caller(scheduler, tokens=5).tokens
    assert not long.ended.is_set()
    assert scheduler.running == 0
    assert scheduler.held_bytes == 0


def test_a_request_that_is_cancelled_while_it_waits_is_not_decoded(scheduler):
    caller = Caller(scheduler)
    scheduler.cancel(caller.request)
    scheduler.start()
    assert Caller(scheduler).tokens
    assert caller.received == []


def test_rows_are_admitted_by_the_memory_that_they_may_need(llama):
    probe = Scheduler(llama)
    job = nb.prepare(llama, prompt_ids(20), max_new_tokens=100)
    row = AnswerRow(0, job.prompts[0], job.plan)
    one = probe._bytes([row])
    assert one > 0
    scheduler = Scheduler(llama, SchedulerLimits(rows=8, cache_bytes=one))
    most = 0

    def counted(*args):
        nonlocal most
        most = max(most, scheduler.running)
        return tick(*args)

    tick, scheduler._batch.tick = scheduler._batch.tick, counted
    callers = [Caller(scheduler, 20, 100) for _ in range(3)]
    scheduler.start()
    assert all(caller.tokens for caller in callers)
    assert most == 1
    scheduler.close()
    assert scheduler.held_bytes <= one
    small = Scheduler(llama, SchedulerLimits(cache_bytes=1000))
    caller = Caller(small)
    small.start()
    assert caller.ended.wait(60)
    assert isinstance(caller.received[0], PromptError)
    assert "this server has 0 MB" in str(caller.received[0])
    small.close()


def test_a_cache_that_no_answer_fits_is_refused_at_the_start(llama):
    Scheduler(llama).require_room(512)
    with pytest.raises(nb.SettingError, match=r"--cache-mb is 0; give at least \d+, or fewer --max-tokens"):
        Scheduler(llama, SchedulerLimits(cache_bytes=10**5)).require_room(512)
    with pytest.raises(nb.SettingError) as caught:
        Scheduler(llama, SchedulerLimits(cache_bytes=1)).require_room(512)
    enough = int(str(caught.value).partition("at least ")[2].partition(",")[0])
    Scheduler(llama, SchedulerLimits(cache_bytes=enough * 10**6)).require_room(512)


def test_a_forward_that_fails_ends_its_requests_and_no_later_one(scheduler, monkeypatch):
    def failing(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", failing)
        scheduler._slot_bytes = 1  # or its measurement would fail first
        callers = [Caller(scheduler), Caller(scheduler, copies=4)]
        scheduler.start()
        for caller in callers:
            assert caller.ended.wait(60)
            assert isinstance(caller.received[-1], DecodingError)
    assert Caller(scheduler).tokens


def test_closing_ends_the_thread_while_answers_run(scheduler):
    caller = Caller(scheduler, tokens=240)
    scheduler.start()
    assert caller.begun.wait(60)
    scheduler.close()
    assert not caller.ended.is_set()
