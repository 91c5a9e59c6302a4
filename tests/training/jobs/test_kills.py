"""kill -9 of the app, the trainer, its runner, or all at once: no job and no step is lost, and no process is left."""

import contextlib
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.jobs.conftest import (
    ENDLESS,
    assert_uninterrupted,
    column,
    in_state,
    processes_of,
    spec,
    stepping,
    until,
)
from training.jobs import JobError, Jobs
from training.jobs.states import ENDED, LIVE, RESUMABLE


class App:
    """A process that submits and polls as the page does. It is forked from the test, so it imports nothing again."""

    def __init__(self, act: Callable[[], None]):
        self.pid = os.fork()
        if self.pid == 0:
            try:
                act()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def busy(home: Path, submitted: Path, seed: int) -> Callable[[], None]:
    """Submit, poll and resume in an endless loop. The ids of the submitted jobs are appended to `submitted`."""

    def act() -> None:
        draw = random.Random(seed)
        jobs = Jobs(home, grace=5)
        with submitted.open("a") as file:
            while True:
                found = jobs.list()
                if sum(job.state == "queued" for job in found) < 2 and draw.random() < 0.3:
                    file.write(jobs.submit(spec(30)).id + "\n")
                    file.flush()
                for job in found:
                    if job.state in RESUMABLE:
                        jobs.resume(job.id)
                time.sleep(0.03)

    return act


def kill_rounds(home: Path, submitted: Path, rounds: int, seed: int) -> None:
    draw = random.Random(seed)
    jobs = Jobs(home)
    app = App(busy(home, submitted, seed))
    until(lambda: submitted.exists() and len(submitted.read_text().split()) >= 2)  # a kill can lose a job from here on
    for number in range(rounds):
        time.sleep(draw.uniform(0.02, 0.6))
        victims = draw.choice(["app", "trainer", "app trainer", "runner", "app trainer runner"])
        if "app" in victims:
            app.kill()
        # jobs.list() would repair what the dead app left; here only the next app may do that.
        for process in processes_of(home):
            of_runner = "training.jobs.runner" in process.cmdline()
            if ("runner" if of_runner else "trainer") in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        if "app" in victims:
            app = App(busy(home, submitted, seed + number + 1))
    app.kill()
    ids = submitted.read_text().split()

    def all_finished() -> bool:
        found = jobs.list()
        for job in found:
            if job.state in RESUMABLE:
                jobs.resume(job.id)
        return all(job.state == "finished" for job in found)

    until(all_finished, 400)
    found = jobs.list()
    assert len(ids) >= 2
    assert set(ids) <= {job.id for job in found}
    for job in found:
        assert_uninterrupted(jobs, job)
    assert not list((home / "jobs").glob("double"))
    until(lambda: not processes_of(home))


@pytest.mark.slow
def test_ten_rounds_of_kills(home, tmp_path):
    kill_rounds(home, tmp_path / "submitted", rounds=10, seed=1)


@pytest.mark.slow
def test_fifty_rounds_of_kills(home, tmp_path):
    kill_rounds(home, tmp_path / "submitted", rounds=50, seed=2)


def test_a_trainer_runs_on_after_its_app_is_killed_and_another_app_controls_it(home):
    jobs = Jobs(home)

    def act() -> None:
        jobs.submit(spec(ENDLESS))
        signal.pause()

    app = App(act)
    (job,) = until(lambda: Jobs(home)._store.exists and jobs.list())
    pid = stepping(jobs, job).pid
    app.kill()
    after = jobs.get(job.id)
    assert (after.state, after.pid) == ("running", pid)
    jobs.stop(job.id)
    in_state(jobs, job, "stopped")


# -- races -----------------------------------------------------------------------------------------------


def at_once(*acts: Callable[[], None]) -> None:
    apps = [App(act) for act in acts]
    assert [app.wait() for app in apps] == [0] * len(apps)


def starts(job) -> int:
    path = job.folder / "starts.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_processes_that_submit_and_poll_at_once_start_each_job_once(home):
    def act() -> None:
        jobs = Jobs(home)
        for _ in range(2):
            jobs.submit(spec(2))
        for _ in range(20):
            jobs.list()

    at_once(*[act] * 3)
    jobs = Jobs(home)
    until(lambda: all(job.state == "finished" for job in jobs.list()))
    found = jobs.list()
    assert len(found) == 6
    for job in found:
        assert starts(job) == 1
        assert [state for state, _, _ in jobs.transitions(job.id)].count("starting") == 1
        assert_uninterrupted(jobs, job)
    assert not list((home / "jobs").glob("double"))


def test_processes_that_resume_one_job_at_once_start_it_once(home, hold):
    jobs = Jobs(home)
    job = stepping(jobs, jobs.submit(spec(30, "held 1")))
    jobs.stop(job.id)
    in_state(jobs, job, "stopped")
    at_once(*[lambda: Jobs(home).resume(job.id)] * 4)  # held, because a finished job cannot be resumed
    hold.unlink()
    in_state(jobs, job, "finished")
    assert starts(job) == 2
    assert_uninterrupted(jobs, job)


def test_several_stops_at_once_send_one_signal(home):
    jobs = Jobs(home)
    job = stepping(jobs, jobs.submit(spec(ENDLESS)))
    at_once(*[lambda: Jobs(home).stop(job.id)] * 4)
    stopped = in_state(jobs, job, "stopped")
    assert "which is saved" in stopped.reason  # after a second signal it would end without saving
    assert [state for state, _, _ in jobs.transitions(job.id)].count("stopping") == 1


@pytest.mark.parametrize("delay", [0, 0.03, 0.06, 0.1, 0.15, 0.25])
def test_a_stop_during_the_start_stops_it(home, delay):
    jobs = Jobs(home)
    job = jobs.submit(spec(ENDLESS))
    time.sleep(delay)  # the stop comes at any moment of the start; the end is always the same
    jobs.stop(job.id)
    ended = in_state(jobs, job, "stopped")
    until(lambda: not processes_of(home))
    assert ended.state in ENDED
    assert starts(job) <= 1


@pytest.mark.slow
def test_after_random_stops_resumes_saves_and_moves_every_job_can_finish(home):
    jobs = Jobs(home, grace=2)
    for _ in range(4):
        jobs.submit(spec(10))

    def random_calls(seed: int) -> Callable[[], None]:
        def act() -> None:
            draw, own_jobs = random.Random(seed), Jobs(home, grace=2)
            for _ in range(25):
                job = draw.choice(own_jobs.list())
                with contextlib.suppress(JobError):
                    draw.choice(
                        [
                            own_jobs.stop,
                            own_jobs.resume,
                            own_jobs.resume,
                            own_jobs.save_now,
                            lambda id: own_jobs.move(id, 1),
                        ]
                    )(job.id)
                assert sum(each.state in LIVE for each in own_jobs.list()) <= 1
                time.sleep(draw.uniform(0, 0.1))

        return act

    at_once(random_calls(1), random_calls(2), random_calls(3))

    def all_finished() -> bool:
        for job in jobs.list():
            if job.state in RESUMABLE:
                jobs.resume(job.id)
        return all(job.state == "finished" for job in jobs.list())

    until(all_finished, 400)
    for job in jobs.list():
        assert_uninterrupted(jobs, job)
    assert not list((home / "jobs").glob("double"))


def test_a_start_that_was_not_stored_does_not_count(home, monkeypatch):
    """The app is killed after it has started a runner and before the state is stored."""
    jobs = Jobs(home)
    job = jobs.submit(spec(3))
    in_state(jobs, job, "finished")

    def act() -> None:
        from training.jobs.store import Ledger

        move_to = Ledger.move_to

        def die(self, row, state, reason="", **columns):
            if state == "starting":
                os.kill(os.getpid(), signal.SIGKILL)
            move_to(self, row, state, reason, **columns)

        monkeypatch.setattr(Ledger, "move_to", die)
        Jobs(home).submit(spec(3))

    assert App(act).wait() == -signal.SIGKILL
    newest = jobs.list()[0]
    assert newest.id != job.id
    in_state(jobs, newest, "finished")
    assert starts(newest) == 1
    assert column(home, newest, "attempts") == 0
