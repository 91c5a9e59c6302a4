"""The store: damaged rows, a damaged file, a full disk, and many jobs."""

import os
import shutil
import sqlite3
import subprocess

import pytest

from tests.training.jobs.conftest import (
    ENDLESS,
    assert_uninterrupted,
    damage,
    in_state,
    processes_of,
    spec,
    stepping,
    until,
)
from training.jobs import JobError, Jobs, JobSpec


@pytest.fixture
def full_disk(tmp_path, monkeypatch):
    """A disk of 6 MB, and a function that fills it to the last byte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")

    def fill() -> None:
        with (disk / "filler").open("wb", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while True:
                        file.write(os.urandom(size))
                except OSError:
                    continue

    yield disk, fill
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    "columns",
    [
        {"state": "bananas"},
        {"state": None},
        {"spec": "{not json"},
        {"spec": b"\x00\xff"},
        {"spec": "[" * 100_000},
        {"kind": "sudo"},
        pytest.param({"place": "first"}, marks=pytest.mark.slow),
        pytest.param({"name": b"\xff"}, marks=pytest.mark.slow),
        pytest.param({"created": None, "reason": b"\x00"}, marks=pytest.mark.slow),
        pytest.param({"started": b"\xff"}, marks=pytest.mark.slow),
        pytest.param({"attempts": b"\xff"}, marks=pytest.mark.slow),
        pytest.param(
            {"token": b"\xff", "state": "running", "pid": 2**62, "pid_started": 1.0, "boot": "x"},
            marks=pytest.mark.slow,
        ),
        {"state": "running", "pid": None},
        pytest.param({"state": "running", "pid": "ten", "pid_started": 1.0, "boot": "x"}, marks=pytest.mark.slow),
        pytest.param({"state": "stopping", "pid": -1, "pid_started": 1.0, "boot": "x"}, marks=pytest.mark.slow),
        pytest.param({"state": "starting", "runner_pid": None}, marks=pytest.mark.slow),
    ],
    ids=lambda columns: str(columns)[:60],
)
def test_a_damaged_row_becomes_a_failed_job_and_the_queue_continues(jobs, home, hold, columns):
    running = jobs.submit(spec(4, "held 1"))
    bad, good = jobs.submit(spec(2)), jobs.submit(spec(2))
    damage(home, bad, **columns)
    found = {job.id: job for job in jobs.list()}
    assert found[bad.id].state == "failed"
    assert "was damaged" in found[bad.id].reason
    hold.unlink()
    for job in (running, good):
        in_state(jobs, job, "finished")
        assert_uninterrupted(jobs, job)
    assert bad.folder.exists()
    jobs.get(bad.id).to_json()
    jobs.delete(bad.id)
    assert not bad.folder.exists()


def test_the_processes_of_a_damaged_row_are_killed_and_the_job_can_be_resumed(jobs, home, hold):
    job = stepping(jobs, jobs.submit(spec(30, "held 11")), 11)
    damage(home, job, name=b"\x00")
    assert jobs.get(job.id).state == "failed"
    until(lambda: not processes_of(home))
    hold.unlink()
    jobs.resume(job.id)
    in_state(jobs, job, "finished")
    assert_uninterrupted(jobs, job)


def test_a_row_whose_id_is_a_path_is_ignored(jobs, home, tmp_path):
    (tmp_path / "outside").mkdir()
    first = jobs.submit(spec(ENDLESS))
    bad = jobs.submit(spec(2))
    damage(home, bad, id="../../outside")
    assert [job.id for job in jobs.list()] == [first.id]
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_job_whose_folder_is_gone_fails_and_the_next_one_starts(jobs, home, hold):
    running, bad, good = jobs.submit(spec(4, "held 1")), jobs.submit(spec(2)), jobs.submit(spec(2))
    shutil.rmtree(bad.folder)
    hold.unlink()
    for job in (running, good):
        in_state(jobs, job, "finished")
    assert "recipe.yaml is missing" in jobs.get(bad.id).reason
    with pytest.raises(JobError, match="cannot be resumed"):
        jobs.resume(bad.id)


def test_a_file_that_is_not_a_database_raises_one_sentence(home):
    home.mkdir()
    (home / "jobs.sqlite").write_text("this is no database" * 100)
    with pytest.raises(JobError, match="cannot be used"):
        Jobs(home).list()
    with pytest.raises(JobError, match="cannot be used"):
        Jobs(home).submit(spec(1))


def test_a_home_that_cannot_be_created_raises_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="cannot be used"):
        Jobs(tmp_path / "file" / "home").submit(spec(1))


@pytest.mark.parametrize(("slots", "grace"), [(0, 1), (65, 1), (1, -1), (1, float("nan"))])
def test_numbers_out_of_range_are_refused(home, slots, grace):
    with pytest.raises(JobError, match="must be from"):
        Jobs(home, slots=slots, grace=grace)


@pytest.mark.slow
def test_200_queued_jobs_take_as_many_sql_statements_as_one(jobs, monkeypatch):
    statements = []
    connect = sqlite3.connect

    def traced(*args, **kwargs):
        connection = connect(*args, **kwargs)
        connection.set_trace_callback(statements.append)
        return connection

    def statements_of(act) -> int:
        statements.clear()
        act()
        return len(statements)

    first = stepping(jobs, jobs.submit(spec(ENDLESS)))
    wanted = spec(5)
    recipe = wanted.with_absolute_paths(1)
    monkeypatch.setattr(
        JobSpec, "with_absolute_paths", lambda self, threads: recipe
    )  # most of a submission's time is YAML
    monkeypatch.setattr(sqlite3, "connect", traced)
    submitting = [statements_of(lambda: jobs.submit(wanted))]
    listing = [statements_of(jobs.list)]
    submitting += [statements_of(lambda: jobs.submit(wanted)) for _ in range(199)]
    listing.append(statements_of(jobs.list))
    assert set(submitting) == {submitting[0]}
    assert listing[0] == listing[1] > 0
    found = jobs.list()
    assert len(found) == 201
    last = jobs.move(found[0].id, 1)
    assert last.queue_place == 1
    for job in jobs.list()[1:-1]:
        damage(jobs.home, job, state="stopped", place=None)  # faster than 199 calls of stop
    jobs.stop(first.id)
    in_state(jobs, last, "finished")


def test_a_full_disk_is_the_stored_reason_and_jobs_resume_when_there_is_space(full_disk, home, monkeypatch):
    disk, fill = full_disk
    jobs = Jobs(disk / str(home.name))
    hold = disk / home.name / "hold"
    hold.parent.mkdir()
    hold.touch()
    job, following = jobs.submit(spec(400, "large held 15")), jobs.submit(spec(12, "large"))
    stepping(jobs, job, 15)
    fill()
    hold.unlink()
    failed = in_state(jobs, job, "failed", "lost", "stopped", "finished")
    assert failed.state == "failed"
    assert "disk full" in failed.reason
    assert [each.step for each in jobs.checkpoints(job.id)][:1] == [10]
    assert "disk full" in in_state(jobs, following, "failed", "stopped", "finished").reason
    (disk / "filler").unlink()
    hold.touch()
    for each in (following, job):
        jobs.resume(each.id)
    in_state(jobs, following, "finished")
    assert_uninterrupted(jobs, following)
    # It resumes from the last complete checkpoint, waits after step 15, and has removed the later lines of the log.
    until(lambda: jobs.get(job.id).state == "running" and jobs.metrics(job.id)[-1].step == 15)
    jobs.stop(job.id)
    in_state(jobs, job, "stopped")
    assert [each.step for each in jobs.checkpoints(job.id)] == [10, 16]
    assert (disk / home.name / "jobs.reserve").exists()
