"""Jobs with the trainer itself: killed, stopped, damaged, and yet the losses of a run that nothing interrupted."""

import contextlib
import os
import random
import shutil
import signal
import time

import psutil
import pytest

from tests.training.jobs.conftest import in_state, processes_of, stepping, until
from tests.training.runs import losses
from training.jobs import Jobs, JobSpec
from training.launch import start
from training.recipe import Recipe

SHRUNK = {
    "optimisation.rows": 1,
    "optimisation.packed_length": 32,
    "saving.save_every": 5,
    "saving.keep": 3,
    "data.held_out": 2,
    "precision": "fp32",
    "threads": 1,
}


@pytest.fixture
def jobs(home, monkeypatch) -> Jobs:
    monkeypatch.delenv("NBDIFF_JOB_TRAINER")
    return Jobs(home)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[JobSpec, list[tuple]]:
    spec = JobSpec.of(recipe="smoke", settings=SHRUNK, max_steps=40)
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "recipe.yaml").write_text(spec.resolved().to_yaml())
    start(Recipe.read(str(folder / "recipe.yaml")), folder / "run", resume=False)
    return spec, losses(folder / "run")


@pytest.mark.slow
def test_three_rounds_of_kills_end_in_the_losses_of_an_unbroken_run(jobs, home, unbroken):
    spec, expected = unbroken
    draw = random.Random(5)
    job = jobs.submit(spec)
    for number in range(3):
        wanted = 8 + 10 * number
        pid = stepping(jobs, job, wanted).pid
        time.sleep(draw.uniform(0, 0.3))
        if number == 0:
            os.kill(pid, signal.SIGKILL)
        else:  # with its runner, and whoever else there is
            for process in processes_of(home):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        until(lambda: not processes_of(home))
        in_state(jobs, job, "failed", seconds=5)
        if number == 1:
            newest = jobs.checkpoints(job.id)[-1].folder / "model.safetensors"
            newest.write_bytes(newest.read_bytes()[:-9])
        jobs.resume(job.id)
    in_state(jobs, job, "finished", seconds=120)
    assert losses(job.run) == expected


@pytest.mark.slow
def test_stop_and_save_now_change_no_loss(jobs, unbroken):
    spec, expected = unbroken
    job = stepping(jobs, jobs.submit(spec), 1)
    jobs.save_now(job.id)
    until(lambda: jobs.checkpoints(job.id))
    jobs.stop(job.id)
    stopped = in_state(jobs, job, "stopped")
    assert f"stopped after step {stopped.step}, which is saved" in stopped.reason
    jobs.resume(job.id)
    in_state(jobs, job, "finished", seconds=120)
    assert losses(job.run) == expected
    assert jobs.evaluations(job.id)
    shutil.rmtree(job.folder)


@pytest.mark.slow
def test_data_that_is_not_there_is_named(jobs, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a", "completion": "b"}\n' * 3 + '{"prompt": "a"\n')
    found = [jobs.submit(JobSpec.of(recipe="smoke", data=str(data))) for data in (tmp_path / "nosuch.jsonl", bad)]
    reasons = [in_state(jobs, job, "failed", seconds=60).reason for job in found]
    assert reasons[0].startswith("missing file: There is no file")
    assert reasons[1].startswith("bad data row: Line 4 of")
