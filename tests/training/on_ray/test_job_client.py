"""Jobs on a Ray cluster: states, log, stop, resume, and a head that is lost. The trainer is the stand-in."""

import time

import pytest

from tests import ray_clusters
from tests.training.jobs.conftest import STAND_IN, end_all
from training.jobs import JobError, Jobs, JobSpec, states
from training.jobs.cluster_file import RayCluster


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NBDIFF_JOB_TRAINER", str(STAND_IN))
    monkeypatch.setenv("NBDIFF_RAY_PATIENCE", "30")
    yield Jobs(tmp_path / "home", grace=120)
    end_all(tmp_path / "home")


def spec(steps):
    return JobSpec.of(recipe="smoke", max_steps=steps, settings={"about": "held 5"})


def wait_for(condition):
    """The value of `condition` once it is true. Slower than `until`: the cluster needs the processor."""
    deadline = time.monotonic() + 500
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found


def ended(jobs, job):
    return wait_for(lambda: (found := jobs.get(job)).state in states.ENDED and found)


@pytest.mark.slow
def test_a_job_on_a_cluster_is_stopped_resumed_and_lost_with_its_head(jobs, ray_environment):
    with ray_clusters.running(jobs=True) as cluster:
        check_a_life(jobs, cluster)


def check_a_life(jobs, cluster):
    hold = jobs.home / "hold"
    hold.parent.mkdir()
    hold.touch()
    job = jobs.submit(spec(8), "on ray", RayCluster(cluster.jobs)).id
    wait_for(lambda: jobs.get(job).step == 5)
    assert jobs.get(job).state == states.RUNNING
    assert jobs.get(job).backend == "ray"
    wait_for(lambda: "Running entrypoint for job nbdiff-" in jobs.log_tail(job))  # the first line of Ray's log
    with pytest.raises(JobError, match="runs on a Ray cluster, where only a stop saves"):
        jobs.save_now(job)
    jobs.stop(job)
    stopped = ended(jobs, job)
    assert (stopped.state, stopped.reason) == (states.STOPPED, "stopped after step 6, which is saved")
    hold.unlink()
    jobs.resume(job)
    assert ended(jobs, job).state == states.FINISHED
    hold.touch()
    second = jobs.submit(spec(8), "lost", RayCluster(cluster.jobs)).id
    wait_for(lambda: jobs.get(second).step == 5)
    cluster.end()
    lost = ended(jobs, second)
    assert lost.state == states.LOST
    assert lost.reason == (
        f"the Ray cluster at {cluster.jobs} did not answer for 30 s; the run's checkpoints are kept, resume it when "
        "the cluster runs again"
    )


@pytest.mark.slow
def test_a_cluster_that_is_not_there_loses_the_job_and_nothing_else(jobs, ray_environment, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    monkeypatch.setenv("NBDIFF_RAY_PATIENCE", "3")
    job = jobs.submit(spec(8), "nowhere", RayCluster("http://127.0.0.1:1")).id
    lost = ended(jobs, job)
    assert lost.state == states.LOST
    assert "the Ray cluster at http://127.0.0.1:1 did not answer for 3 s" in lost.reason
    jobs.resume(job)
    assert jobs.get(job).state in (states.QUEUED, states.STARTING, states.RUNNING)


def test_an_address_that_is_no_url_is_refused():
    with pytest.raises(JobError, match=r"'10\.0\.0\.1:6379' is not the URL of a Ray job server"):
        RayCluster("10.0.0.1:6379").check()
    with pytest.raises(JobError, match="workers is 0; it must be from 1"):
        RayCluster("http://127.0.0.1:8265", workers=0).check()


def test_a_job_of_this_machine_is_started_as_always(jobs, tmp_path):
    job = jobs.submit(JobSpec.of(recipe="smoke", max_steps=3))
    assert job.backend == "local"
    assert jobs.command(job.id)[1] == str(STAND_IN)
    (job.folder / "cluster.json").write_text('{"address": "http://127.0.0.1:1"}')
    assert jobs.command(job.id)[1:3] == ["-m", "training.on_ray.job_client"]
    (job.folder / "cluster.json").write_text("[]")
    assert RayCluster.read(job.folder) is None
