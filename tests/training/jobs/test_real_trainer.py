"""Jobs with the real trainer: after kills, damage and stops, the losses equal those of an uninterrupted run."""

import contextlib
import os
import signal

import psutil
import pytest

from tests.training import held_trainer
from tests.training.jobs.conftest import in_state, processes_of, stepping, until
from tests.training.runs import losses, small_base, small_data, small_recipe
from training.data.data_settings import DataSettings
from training.data.sources import load_rows
from training.errors import DataError
from training.jobs import Jobs, JobSpec
from training.jobs.failures import explained
from training.run.ending import ending_of
from training.run.launch import start


@pytest.mark.slow
def test_a_job_that_was_killed_damaged_and_stopped_has_the_losses_of_an_uninterrupted_run(home, tmp_path, monkeypatch):
    limit = tmp_path / "limit"
    monkeypatch.setenv("NBDIFF_JOB_TRAINER", held_trainer.__file__)
    monkeypatch.setenv("NBDIFF_TEST_LIMIT", str(limit))
    recipe = small_recipe(
        small_base(tmp_path / "base"),
        small_data(tmp_path / "data.jsonl"),
        optimisation={"max_steps": 130},
        saving={"save_every": 10, "eval_every": 0, "keep": 3},
    )
    start(recipe, tmp_path / "uninterrupted", resume=False)
    jobs = Jobs(home)
    held_trainer.allow(limit, 45)
    job = jobs.submit(JobSpec.of(recipe=recipe.to_yaml()))

    pid = stepping(jobs, job, 25).pid
    os.kill(pid, signal.SIGKILL)
    assert "out of memory, most likely" in in_state(jobs, job, "failed").reason
    held_trainer.allow(limit, 75)
    jobs.resume(job.id)

    stepping(jobs, job, 55)
    for process in processes_of(home):
        with contextlib.suppress(psutil.Error):
            process.kill()
    in_state(jobs, job, "failed")
    newest = jobs.checkpoints(job.id)[-1].folder / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    with (job.run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 56, "lo')
    held_trainer.allow(limit, 85)
    jobs.resume(job.id)

    stepping(jobs, job, 85)
    jobs.save_now(job.id)
    held_trainer.allow(limit, 95)
    until(lambda: any(each.step % 10 for each in jobs.checkpoints(job.id)))
    jobs.stop(job.id)
    held_trainer.allow(limit, recipe.optimisation.max_steps + 1)
    stopped = in_state(jobs, job, "stopped")
    assert f"stopped after step {stopped.step}, which is saved" in stopped.reason
    jobs.resume(job.id)

    in_state(jobs, job, "finished")
    assert losses(job.run) == losses(tmp_path / "uninterrupted")
    assert jobs.evaluations(job.id)
    until(lambda: not processes_of(home))


def test_the_reason_of_a_data_error_has_its_kind(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n' * 3 + '{"prompt": "a"\n')
    for source, name in ((tmp_path / "nosuch.jsonl", "missing file: There is no file"), (bad, "bad data row: Line 4")):
        with pytest.raises(DataError) as error:
            load_rows(DataSettings(source=str(source)))
        assert explained(ending_of(error.value), code=2).startswith(name)
