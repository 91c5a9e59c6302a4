"""The worker: leases, limits and stops of runs, and an error in a run does not end the worker."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from playground.server.worker import FRAMES_PER_REPLY, MOST_VIEWERS, Limits, QueueFullError, Reply, RunPart, Worker

PATIENCE = 120.0  # seconds until a test fails; the machine may be busy


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class AnyFrame:
    """A frame with any fields."""

    fields: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return self.fields


class StepLane:
    """A lane with one forward per frame. Each forward waits until the test permits it."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.closed = threading.Event()
        self.forwards = 0
        self.taken = 0  # frames after which the worker has requested the next one
        self.over = False

    def frames(self) -> Generator[AnyFrame, None, None]:
        try:
            while True:
                assert self.permits.acquire(timeout=PATIENCE), "the test did not permit the forward"
                if self.over:
                    return
                self.forwards += 1
                yield AnyFrame({"kind": "step", "number": self.forwards})
                self.taken += 1
        finally:
            self.closed.set()

    def lane(self) -> RunPart:
        return RunPart("slow", self.frames)

    def forward(self, count: int = 1) -> None:
        """Permit `count` forwards. Returns when the worker has stored their frames or closed the lane."""
        wanted = self.taken + count
        for _ in range(count):
            self.permits.release()
        until(lambda: self.taken == wanted or self.closed.is_set())

    def end(self) -> None:
        self.over = True
        self.permits.release()


def quick(*frames: dict[str, Any]) -> RunPart:
    return RunPart("quick", lambda: (AnyFrame(frame) for frame in frames))


def frames_of(reply: Reply) -> list[dict[str, Any]]:
    """The frames of a reply as JSON values."""
    return reply.to_json()["frames"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"the condition was still false after {PATIENCE} s"
        time.sleep(0.002)


def until_state(worker: Worker, run: str, state: str) -> None:
    until(lambda: worker.poll(run, "test", 0).state == state)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worker(clock: Clock) -> Iterator[Worker]:
    worker = Worker(Limits(queue=2, wall_seconds=60, lease_seconds=5, keep_seconds=100, keep_runs=3), clock=clock)
    worker.start()
    yield worker
    worker.close()


@pytest.fixture
def slow(worker: Worker) -> Iterator[StepLane]:
    slow = StepLane()
    yield slow
    slow.end()


def test_a_run_goes_through_its_lanes_in_order_and_ends_with_its_summary(worker: Worker) -> None:
    lanes = [quick({"kind": "a"}, {"kind": "b"}), quick({"kind": "c"})]
    run = worker.submit(lanes, lambda frames: AnyFrame({"kind": "summary", "count": len(frames)}))
    until_state(worker, run, "finished")
    assert frames_of(worker.poll(run, "v", 0)) == [
        {"lane": 0, "kind": "a"},
        {"lane": 0, "kind": "b"},
        {"lane": 1, "kind": "c"},
        {"kind": "summary", "count": 3},
    ]


def test_a_poll_returns_the_frames_after_the_cursor(worker: Worker) -> None:
    run = worker.submit([quick(*({"n": n} for n in range(3)))])
    until_state(worker, run, "finished")
    first = worker.poll(run, "v", 1)
    assert [frame["n"] for frame in frames_of(first)] == [1, 2]
    assert frames_of(worker.poll(run, "v", first.cursor)) == []


@pytest.mark.parametrize("cursor", [-(10**9), 10**9])
def test_a_cursor_out_of_range_is_no_error(worker: Worker, cursor: int) -> None:
    run = worker.submit([quick({"n": 0})])
    until_state(worker, run, "finished")
    assert worker.poll(run, "v", cursor).cursor == 1


def test_a_late_viewer_receives_the_frames_in_several_replies(worker: Worker) -> None:
    run = worker.submit([quick(*({"n": n} for n in range(FRAMES_PER_REPLY + 1)))])
    until_state(worker, run, "finished")
    first = worker.poll(run, "v", 0)
    assert len(first.frames) == FRAMES_PER_REPLY
    assert first.more
    assert not worker.poll(run, "v", first.cursor).more


def test_a_run_that_nobody_polls_ends_within_one_forward_and_frees_the_model(
    worker: Worker, slow: StepLane, clock: Clock
) -> None:
    run = worker.submit([slow.lane()])
    slow.forward()
    assert worker.poll(run, "v", 0).state == "running"
    clock.now += 5.1
    slow.forward()
    assert slow.closed.wait(PATIENCE)
    assert slow.forwards <= 2
    after = worker.submit([quick({"n": 0})])
    until_state(worker, after, "finished")
    assert worker.poll(run, "v", 0).state == "stopped"


def test_polls_keep_a_run_alive(worker: Worker, slow: StepLane, clock: Clock) -> None:
    run = worker.submit([slow.lane()])
    for _ in range(4):
        clock.now += 4
        worker.poll(run, "v", 0)
        slow.forward()
    assert worker.poll(run, "v", 0).state == "running"


def test_stop_acts_within_one_forward(worker: Worker, slow: StepLane) -> None:
    run = worker.submit([slow.lane()])
    slow.forward()
    worker.stop(run)
    slow.forward()
    assert slow.closed.wait(PATIENCE)
    assert slow.forwards <= 2
    assert worker.poll(run, "v", 0).message == "Stopped."


def test_a_queued_run_has_its_place_in_the_queue_and_can_be_stopped(worker: Worker, slow: StepLane) -> None:
    worker.submit([slow.lane()])
    slow.forward()
    second, third = worker.submit([quick()]), worker.submit([quick()])
    assert [worker.poll(run, "v", 0).ahead for run in (second, third)] == [1, 2]
    worker.stop(second)
    assert worker.poll(second, "v", 0).state == "stopped"
    assert worker.poll(third, "v", 0).ahead == 1


def test_a_full_queue_is_refused_in_a_sentence(worker: Worker, slow: StepLane) -> None:
    worker.submit([slow.lane()])
    slow.forward()
    for _ in range(2):
        worker.submit([quick()])
    with pytest.raises(QueueFullError, match="This server is busy: 2 runs are waiting"):
        worker.submit([quick()])


def test_queued_runs_without_a_lease_are_removed_from_a_full_queue(
    worker: Worker, slow: StepLane, clock: Clock
) -> None:
    running = worker.submit([slow.lane()])
    slow.forward()
    for _ in range(2):
        worker.submit([quick()])
    clock.now += 5.1
    worker.poll(running, "v", 0)
    assert worker.is_live(worker.submit([quick()]))


def test_a_run_ends_when_its_last_viewer_leaves(worker: Worker, slow: StepLane) -> None:
    run = worker.submit([slow.lane()])
    worker.poll(run, "one", 0)
    worker.poll(run, "two", 0)
    worker.leave(run, "one")
    slow.forward()
    assert worker.is_live(run)
    worker.leave(run, "two")
    slow.forward()
    assert slow.closed.wait(PATIENCE)
    assert not worker.is_live(run)


def test_a_stranger_cannot_end_a_run_by_leaving_it(worker: Worker, slow: StepLane) -> None:
    run = worker.submit([slow.lane()])
    worker.leave(run, "stranger")
    assert worker.is_live(run)


def test_a_run_waits_for_a_page_that_is_loaded_again(worker: Worker, slow: StepLane, clock: Clock) -> None:
    run = worker.submit([slow.lane()])
    worker.poll(run, "before", 0)
    worker.hold(run, "before", 15.0)
    clock.now += 14.0  # longer than a lease
    slow.forward()
    assert worker.poll(run, "after", 0).state == "running"
    worker.hold(run, "stranger", 1000.0)
    clock.now += 6.0
    slow.forward()
    assert not worker.is_live(run)


def test_leases_of_one_run_are_bounded(worker: Worker, slow: StepLane) -> None:
    run = worker.submit([slow.lane()])
    for number in range(2 * MOST_VIEWERS):
        worker.poll(run, f"viewer {number}", 0)
    assert len(worker._runs[run].viewers) == MOST_VIEWERS


def test_a_run_stops_at_the_time_limit(worker: Worker, slow: StepLane, clock: Clock) -> None:
    run = worker.submit([slow.lane()])
    slow.forward()
    clock.now += 61
    worker.poll(run, "v", 0)
    slow.forward()
    until_state(worker, run, "stopped")
    assert "stopped after 60 s" in worker.poll(run, "v", 0).message


def test_a_run_stops_at_the_limit_of_its_log() -> None:
    worker = Worker(Limits(log_bytes=1000))
    worker.start()
    run = worker.submit([quick(*({"text": "x" * 300} for _ in range(9)))])
    until_state(worker, run, "stopped")
    reply = worker.poll(run, "v", 0)
    assert len(reply.frames) == 3
    assert "of trace" in reply.message
    worker.close()


def test_an_error_in_a_lane_fails_only_its_run(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Generator[AnyFrame, None, None]:
        yield AnyFrame({"n": 0})
        raise RuntimeError("a secret of the server")

    run = worker.submit([RunPart("broken", broken)])
    until_state(worker, run, "failed")
    assert "secret" not in worker.poll(run, "v", 0).message
    assert "a secret of the server" in caplog.text
    after = worker.submit([quick({"n": 0})])
    until_state(worker, after, "finished")


def test_ids_are_long_and_unknown_ids_raise_no_error(worker: Worker) -> None:
    first, second = worker.submit([quick()]), worker.submit([quick()])
    assert first != second
    assert len(first) >= 20
    assert worker.poll("no such run", "v", 0).state == "unknown"
    worker.stop("no such run")
    worker.leave("no such run", "v")


def test_ended_runs_are_removed_by_age_and_by_number(worker: Worker, clock: Clock) -> None:
    runs = []
    for _ in range(6):
        runs.append(worker.submit([quick({"n": 0})]))
        until_state(worker, runs[-1], "finished")
    worker.submit([quick()])
    assert [worker.poll(run, "v", 0).state for run in runs[:3]] == ["unknown"] * 3
    assert worker.poll(runs[-1], "v", 0).state == "finished"
    clock.now += 101
    worker.submit([quick()])
    assert worker.poll(runs[-1], "v", 0).state == "unknown"


def test_after_a_failed_warm_up_the_worker_runs() -> None:
    def broken() -> None:
        raise RuntimeError("cold")

    worker = Worker(warm_up=broken)
    worker.start()
    until_state(worker, worker.submit([quick()]), "finished")
    worker.close()


def test_close_ends_the_running_lane(clock: Clock) -> None:
    worker, slow = Worker(clock=clock), StepLane()
    worker.start()
    run = worker.submit([slow.lane()])
    slow.forward()
    closing = threading.Thread(target=worker.close)
    closing.start()
    until(lambda: not worker.is_live(run))
    slow.forward()
    closing.join(PATIENCE)
    assert slow.closed.is_set()
    assert not closing.is_alive()
