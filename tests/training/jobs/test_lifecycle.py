"""A job from its submission to its end: states, signals, and the reason given for each end."""

import json
import os
import signal
import time

import psutil
import pytest

from tests.training.jobs.conftest import (
    ENDLESS,
    assert_uninterrupted,
    column,
    damage,
    in_state,
    processes_of,
    spec,
    stepping,
    until,
)
from training.jobs import JobError, Jobs
from training.jobs.processes import Identity


def states_of(jobs: Jobs, job) -> list[str]:
    return [state for state, _, _ in jobs.transitions(job.id)]


def test_the_next_job_starts_when_a_job_has_finished(jobs, home, hold):
    first, second = jobs.submit(spec(about="held 5"), "first"), jobs.submit(spec(), "second")
    assert (first.state, second.state, second.queue_place) == ("starting", "queued", 1)
    assert first.folder == home / "jobs" / first.id
    hold.unlink()
    # No call to `jobs` here: the first job's runner starts the second job.
    until(lambda: (second.run / "final").exists())
    assert in_state(jobs, second, "finished").finished
    assert [job.name for job in jobs.list()] == ["second", "first"]
    for job in (first, second):
        assert_uninterrupted(jobs, job)
        assert states_of(jobs, job) == ["queued", "starting", "running", "finished"]
    until(lambda: not processes_of(home))


def test_no_file_is_written_before_the_first_submission(home):
    jobs = Jobs()
    assert jobs.home == home
    assert jobs.list() == []
    with pytest.raises(JobError, match="no job"):
        jobs.get("0123abcd")
    assert not home.exists()


def test_the_pid_is_the_trainers_and_it_leads_its_own_session(jobs, monkeypatch):
    monkeypatch.setenv("NBDIFF_JOB_NICE", "12")
    job = stepping(jobs, jobs.submit(spec(ENDLESS)))
    trainer = psutil.Process(job.pid)
    assert trainer.cmdline() == jobs.command(job.id)[: len(trainer.cmdline())]
    assert os.getsid(job.pid) == os.getpgid(job.pid) == job.pid
    assert trainer.nice() == min(19, os.nice(0) + 12)
    assert os.readlink(f"/proc/{job.pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{job.pid}/fd/1") == str(job.folder / "log.txt")
    jobs.stop(job.id)
    assert in_state(jobs, job, "stopped").pid is None


def test_stop_saves_and_a_resumed_job_has_the_losses_of_an_uninterrupted_run(jobs, hold):
    job = stepping(jobs, jobs.submit(spec(25, "held 3")), 3)
    assert jobs.stop(job.id).state in ("stopping", "stopped")  # it may end inside the call
    stopped = in_state(jobs, job, "stopped")
    assert f"stopped after step {stopped.step}, which is saved" in stopped.reason
    assert [each.step for each in jobs.checkpoints(job.id)] == [stopped.step]
    assert states_of(jobs, job)[-2:] == ["stopping", "stopped"]
    assert jobs.stop(job.id).state == "stopped"
    hold.unlink()
    assert "--resume" in jobs.command(job.id)
    assert jobs.resume(job.id).state == "starting"
    in_state(jobs, job, "finished")
    assert_uninterrupted(jobs, job)
    with pytest.raises(JobError, match="is finished"):
        jobs.resume(job.id)


def test_a_trainer_that_ignores_stop_is_killed_with_its_process_group(home):
    jobs = Jobs(home, grace=0.5)
    job = stepping(jobs, jobs.submit(spec(ENDLESS, "ignores stop, child")))
    assert len(psutil.Process(job.pid).children()) == 1
    jobs.stop(job.id)
    # The runner kills them without any call to `jobs`.
    until(lambda: not processes_of(home))
    assert "killed: it still ran 0.5 s after" in in_state(jobs, job, "stopped").reason


def test_child_processes_of_a_trainer_end_with_it(jobs, home):
    job = stepping(jobs, jobs.submit(spec(5, "child")))
    in_state(jobs, job, "finished")
    until(lambda: not processes_of(home))


def test_save_now_saves_and_the_run_continues(jobs, hold):
    job = stepping(jobs, jobs.submit(spec(ENDLESS, "held 2")), 2)
    jobs.save_now(job.id)
    until(lambda: jobs.checkpoints(job.id))
    assert [each.step for each in jobs.checkpoints(job.id)] == [3]
    hold.unlink()
    assert stepping(jobs, job, 4).state == "running"
    jobs.stop(job.id)
    in_state(jobs, job, "stopped")
    with pytest.raises(JobError, match="only a running job can save"):
        jobs.save_now(job.id)


def test_save_now_before_the_trainer_sets_its_signal_handlers_does_no_harm(jobs, hold):
    job = in_state(jobs, jobs.submit(spec(3, "held before signals")), "running")
    jobs.save_now(job.id)
    hold.unlink()
    in_state(jobs, job, "finished")


def test_the_queue_is_reordered_and_a_queued_job_cancelled(jobs):
    running, *waiting = [jobs.submit(spec(ENDLESS), str(number)) for number in range(5)]
    jobs.move(waiting[3].id, 1)
    jobs.move(waiting[0].id, 99)
    jobs.stop(waiting[1].id)
    order = {job.name: job.queue_place for job in jobs.list() if job.queue_place}
    assert order == {"4": 1, "3": 2, "1": 3}
    assert jobs.get(waiting[1].id).state == "stopped"
    assert "cancelled" in jobs.get(waiting[1].id).reason
    with pytest.raises(JobError, match="only queued jobs have a place"):
        jobs.move(running.id, 1)
    for job in jobs.list():
        if job.state == "queued":
            jobs.stop(job.id)
    jobs.stop(running.id)
    in_state(jobs, running, "stopped")


def test_two_slots_run_two_at_once(home, hold):
    jobs = Jobs(home, slots=2)
    found = [jobs.submit(spec(20, "slots=2 held 5")) for _ in range(3)]
    for job in found[:2]:
        stepping(jobs, job, 5)
    assert [jobs.get(job.id).state for job in found] == ["running", "running", "queued"]
    hold.unlink()
    for job in found:
        in_state(jobs, job, "finished")
        assert_uninterrupted(jobs, job)


# -- ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ("no final", "ended without an error, but the model in its final/ is missing or incomplete"),
        ("damaged final", "ended without an error, but the model in its final/ is missing or incomplete"),
        ("crashed out_of_memory: MemoryError", "out of memory: lower optimisation.rows"),
        ("failed out_of_memory: CUDA out of memory. Tried", "out of memory: lower"),
        ("failed bad_row: Row 31 of data.jsonl cannot be used. No.", "bad data row: Row 31 of data.jsonl"),
        ("failed bad_row: Line 7 of data.jsonl is not JSON: no", "bad data row: Line 7"),
        ("failed missing_file: There is no file /nosuch.jsonl.", "missing file: There is no file"),
        ("failed disk_full: The checkpoint of step 4 cannot be written to c: the disk is full; x.", "disk full: The"),
        (
            "failed nan_loss: The loss of step 4 is nan and its gradient norm nan; the run is stopped and the "
            "checkpoint of step 2 is kept.",
            "NaN loss: The loss of step 4 is nan",
        ),
        ("failed other: The run in c read 8 rows per step.", "The run in c read 8 rows per step."),
        ("crashed other: KeyError: 'optimizer'", "it ended with exit code 1; its last line: KeyError: 'optimizer'"),
        ("exit3 words:MemoryError: row 4, disk full", "it ended with exit code 3; its last line: MemoryError: row 4"),
        ("exit3 words:Bus error", "it ended with exit code 3; its last line: Bus error"),
        ("exit143 words:going down", "signalled by another process"),
    ],
)
def test_the_reason_of_a_failure_is_given(jobs, about, reason):
    job = in_state(jobs, jobs.submit(spec(1, about)), "failed", "stopped", "finished")
    assert reason in job.reason
    assert job.state == ("stopped" if "exit143" in about else "failed")


def test_the_reason_of_an_earlier_end_is_not_used_for_a_later_one(jobs):
    job = in_state(
        jobs, jobs.submit(spec(ENDLESS, "failed bad_row: Row 31 of data.jsonl cannot be used. No.")), "failed"
    )
    assert "bad data row" in job.reason
    recipe = job.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("failed bad_row", "works now"))
    jobs.resume(job.id)
    stepping(jobs, job)
    os.kill(jobs.get(job.id).pid, signal.SIGKILL)
    assert "out of memory, most likely" in in_state(jobs, job, "failed").reason


def test_a_trainer_that_cannot_start_does_not_get_the_reason_of_the_earlier_end(jobs, monkeypatch):
    job = stepping(jobs, jobs.submit(spec(ENDLESS)))
    jobs.stop(job.id)
    assert "which is saved" in in_state(jobs, job, "stopped").reason
    monkeypatch.setenv("NBDIFF_JOB_TRAINER", "/nosuch/trainer.py")
    jobs.resume(job.id)
    assert "it ended with exit code 2" in in_state(jobs, job, "failed").reason


def test_a_killed_trainer_is_failed_within_seconds_with_its_last_lines(jobs, hold):
    job = stepping(jobs, jobs.submit(spec(ENDLESS, "held 11")), 11)
    os.kill(job.pid, signal.SIGKILL)
    failed = in_state(jobs, job, "failed")
    assert "out of memory, most likely" in failed.reason
    assert "gradient_checkpointing=true" in failed.reason
    assert "# started" in jobs.log_tail(job.id)
    hold.unlink()
    jobs.resume(job.id)
    stepping(jobs, job, 12)
    assert [line.step for line in jobs.metrics(job.id)][:12] == list(range(1, 13))
    jobs.stop(job.id)


def test_a_run_killed_before_it_wrote_its_recipe_starts_from_step_0(jobs, hold):
    job = stepping(jobs, jobs.submit(spec(12, "held 2")), 2)
    os.kill(job.pid, signal.SIGKILL)
    in_state(jobs, job, "failed")
    (job.run / "recipe.yaml").rename(job.run / "recipe.yaml.part")
    hold.unlink()
    jobs.resume(job.id)
    in_state(jobs, job, "finished")
    assert_uninterrupted(jobs, job)


def test_after_a_kill_a_damaged_checkpoint_and_a_cut_log_line_are_ignored(jobs, hold):
    job = stepping(jobs, jobs.submit(spec(35, "held 21")), 21)
    os.kill(job.pid, signal.SIGKILL)
    in_state(jobs, job, "failed")
    with (job.run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 22, "lo')
    before = jobs.metrics(job.id)
    assert jobs.get(job.id).step == before[-1].step
    newest = jobs.checkpoints(job.id)[-1].folder / "state.json"
    newest.write_text(newest.read_text()[:-4])
    hold.unlink()
    jobs.resume(job.id)
    in_state(jobs, job, "finished")
    assert_uninterrupted(jobs, job)


# -- reused pids, lost runners -----------------------------------------------------------------------------


def lose_the_runner(home, job) -> None:
    runner = column(home, job, "runner_pid")
    os.kill(runner, signal.SIGKILL)
    until(lambda: has_ended(runner))


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_process_that_reuses_the_pid_is_not_killed(jobs, home, hold):
    job = stepping(jobs, jobs.submit(spec(ENDLESS, "held 1")))  # held: its folder is moved below
    lose_the_runner(home, job)
    damage(home, job, pid_started=column(home, job, "pid_started") - 100)
    stranger = psutil.Process(job.pid)
    environment = stranger.environ()
    assert environment["NBDIFF_JOB"] == job.id
    # Another process with the same pid has another environment.
    damage(home, job, id="0000aaaa")
    (home / "jobs" / job.id).rename(home / "jobs" / "0000aaaa")
    found = jobs.get("0000aaaa")
    assert found.state == "failed"
    assert "while no runner watched it" in found.reason
    jobs.stop("0000aaaa")
    assert stranger.is_running()
    stranger.kill()


def test_after_a_reboot_the_state_is_lost_and_not_failed(jobs, home):
    job = stepping(jobs, jobs.submit(spec(ENDLESS)))
    waiting = jobs.submit(spec(3))
    lose_the_runner(home, job)
    os.kill(job.pid, signal.SIGKILL)
    damage(home, job, boot="another boot")
    lost = jobs.get(job.id)
    assert lost.state == "lost"
    assert "the machine was restarted while it ran" in lost.reason
    in_state(jobs, waiting, "finished")
    assert jobs.resume(job.id).state in ("queued", "starting", "running")
    jobs.stop(job.id)


def test_a_killed_runner_is_replaced_and_the_queue_continues(jobs, home, hold):
    job, following = jobs.submit(spec(40, "held 5")), jobs.submit(spec(3))
    stepping(jobs, job)
    lose_the_runner(home, job)
    assert jobs.get(job.id).state == "running"
    hold.unlink()
    until(lambda: (following.run / "final").exists())  # without any call to `jobs`
    in_state(jobs, following, "finished")
    assert_uninterrupted(jobs, job)


def test_a_stop_without_a_runner_is_recorded_as_stopped(jobs, home):
    job = stepping(jobs, jobs.submit(spec(ENDLESS)))
    lose_the_runner(home, job)
    jobs.stop(job.id)
    assert "which is saved" in in_state(jobs, job, "stopped").reason
    job = stepping(jobs, jobs.submit(spec(ENDLESS, "ignores stop")))
    jobs.stop(job.id)
    lose_the_runner(home, job)
    psutil.Process(job.pid).kill()
    assert "before it could save" in in_state(jobs, job, "stopped").reason


def test_a_job_whose_runner_fails_before_the_trainer_starts_is_tried_3_times(jobs, home, monkeypatch):
    monkeypatch.setattr("training.jobs.supervisor.environment", lambda: {**os.environ, "PYTHONHOME": "/nosuch"})
    job = jobs.submit(spec(3))
    assert "3 times" in in_state(jobs, job, "failed").reason
    assert states_of(jobs, job).count("starting") == 3
    monkeypatch.undo()


def test_a_runner_that_has_ended_before_it_is_looked_at_is_started_again(jobs, home, monkeypatch):
    monkeypatch.setattr("training.jobs.supervisor.environment", lambda: {**os.environ, "PYTHONHOME": "/nosuch"})
    monkeypatch.setattr("training.jobs.supervisor.Identity.of", lambda pid: None)  # as on a busy machine
    job = jobs.submit(spec(3))
    assert "3 times" in in_state(jobs, job, "failed").reason
    assert not Identity.of_ended(os.getpid()).alive
    monkeypatch.undo()


# -- deletion ----------------------------------------------------------------------------------------------


def test_delete_removes_the_jobs_folder_and_follows_no_link(jobs, home, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    job, other = jobs.submit(spec(1)), jobs.submit(spec(1))
    for each in (job, other):
        in_state(jobs, each, "finished")
    (job.folder / "a link").symlink_to(outside, target_is_directory=True)
    jobs.delete(job.id)
    assert not job.folder.exists()
    assert (outside / "kept.txt").exists()
    assert [each.id for each in jobs.list()] == [other.id]
    other.folder.rename(tmp_path / "elsewhere")
    other.folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    jobs.delete(other.id)
    assert (tmp_path / "elsewhere" / "recipe.yaml").exists()
    assert list((home / "jobs").glob("*-*")) == list((home / "jobs").glob(".deleted*")) == []


@pytest.mark.parametrize("id", ["../outside", "..", "", "/etc", "0123abcd", "0123ABCD", "a\x00b", "x" * 10**6, None, 7])
def test_a_wrong_id_is_refused_by_every_call(jobs, home, id):
    jobs.submit(spec(1))
    calls = (jobs.get, jobs.stop, jobs.resume, jobs.save_now, jobs.delete, jobs.command, jobs.transitions)
    for call in calls:
        with pytest.raises(JobError, match=r"There is no job") as error:
            call(id)
        assert len(str(error.value)) < 120


def test_a_running_job_is_not_deleted(jobs):
    job = stepping(jobs, jobs.submit(spec(ENDLESS)))
    with pytest.raises(JobError, match="stop it before"):
        jobs.delete(job.id)
    assert job.folder.exists()
    jobs.stop(job.id)
    in_state(jobs, job, "stopped")
    jobs.delete(job.id)


def test_the_json_of_a_job_has_all_fields(jobs):
    job = in_state(jobs, jobs.submit(spec(1), "one"), "finished")
    found = json.loads(json.dumps(job.to_json()))
    assert found["folder"] == str(job.folder)
    wanted = "id name state reason pid step max_steps folder created finished"
    assert set(wanted.split()) <= set(found)
    assert found["spec"]["recipe"] == "smoke"
    assert time.strptime(found["created"][:19], "%Y-%m-%dT%H:%M:%S")


def test_a_system_without_process_groups_is_told_at_once(home, monkeypatch):
    """As Windows is."""
    monkeypatch.delattr(os, "fork")
    with pytest.raises(JobError, match=r"needs a POSIX system .* train here with 'nbdiff-train adapt' instead") as said:
        Jobs(home)
    assert "\n" not in str(said.value)
