"""Jobs in a temporary home with a stand-in for the trainer. After a test, all their processes are killed."""

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.training.jobs.stand_in import loss_after
from training.jobs import Jobs, JobSpec, TrainingJob
from training.run.log_lines import StepFigures

STAND_IN = Path(__file__).with_name("stand_in.py")
ENDLESS = 1_000_000  # steps of a run that a test must stop
PATIENCE = 120.0  # seconds until a test fails; the machine may be busy


@pytest.fixture
def home(tmp_path, monkeypatch) -> Iterator[Path]:
    """A home whose trainers are stand-ins."""
    folder = tmp_path / "home"
    monkeypatch.setenv("NBDIFF_HOME", str(folder))
    monkeypatch.setenv("NBDIFF_JOB_TRAINER", str(STAND_IN))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield folder
    end_all(folder)


@pytest.fixture
def hold(home) -> Path:
    """The file HOME/hold. Stand-ins with "held" in `about` wait until the test deletes it."""
    home.mkdir()
    path = home / "hold"
    path.touch()
    return path


@pytest.fixture
def jobs(home) -> Jobs:
    return Jobs(home)


def spec(steps: int = 10, about: str = "", **fields: Any) -> JobSpec:
    return JobSpec.of(recipe="smoke", max_steps=steps, settings={"about": about}, **fields)


def processes_of(home: Path) -> list[psutil.Process]:
    """The running processes of a home's jobs: runners, trainers and their children."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and any(str(home) in word for word in process.cmdline()[1:]):
                found.append(process)
    return found


def end_all(home: Path) -> None:
    """Kill all processes of a home's jobs."""
    for process in processes_of(home):
        with contextlib.suppress(psutil.Error):
            process.kill()


def hold_jobs(home: Path, steps: int) -> None:
    """Make all jobs of a home wait after this many steps. They still save and stop when a signal asks for it."""
    home.mkdir(exist_ok=True)
    (home / "hold").write_text(str(steps))


def release(home: Path) -> None:
    """Undo hold_jobs."""
    (home / "hold").unlink()


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Call `condition` until its value is true, and return that value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"the condition was still false after {seconds} s"
        time.sleep(0.02)
    return found


def in_state(jobs: Jobs, job: TrainingJob, *states: str, seconds: float = PATIENCE) -> TrainingJob:
    """Wait until the job is in one of these states, and return it."""
    found = None
    deadline = time.monotonic() + seconds
    while found is None or found.state not in states:
        assert time.monotonic() < deadline, f"{found}: {jobs.log_tail(job.id)}"
        time.sleep(0.02)
        found = jobs.get(job.id)
    return found


def stepping(jobs: Jobs, job: TrainingJob, step: int = 1) -> TrainingJob:
    """Wait until the job has finished step `step`, and return it."""
    return until(lambda: (found := jobs.get(job.id)).step >= step and found)


def assert_uninterrupted(jobs: Jobs, job: TrainingJob) -> None:
    """The job has finished, and its log equals the log of an uninterrupted run."""
    job = jobs.get(job.id)
    assert job.state == "finished", (job, jobs.log_tail(job.id), jobs.transitions(job.id))
    expected, loss = [], 0.3
    for step in range(1, job.max_steps + 1):
        loss = loss_after(loss)
        expected.append({"step": step, "loss": loss})
    lines = (job.run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == expected
    assert jobs.metrics(job.id) == [StepFigures(**line) for line in expected]
    assert json.loads((job.run / "final" / "state.json").read_text()) == expected[-1]
    assert not (job.folder / "double").exists()


def damage(home: Path, job: TrainingJob, **columns: Any) -> None:
    """Overwrite columns of a job's row in the database, without any check."""
    with contextlib.closing(sqlite3.connect(home / "jobs.sqlite")) as connection:
        names = ", ".join(f"{name} = ?" for name in columns)
        connection.execute(f"update jobs set {names} where id = ?", (*columns.values(), job.id))
        connection.commit()


def column(home: Path, job: TrainingJob, name: str) -> Any:
    with contextlib.closing(sqlite3.connect(home / "jobs.sqlite")) as connection:
        return connection.execute(f"select {name} from jobs where id = ?", (job.id,)).fetchone()[0]
