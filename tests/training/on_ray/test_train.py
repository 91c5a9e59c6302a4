"""A run by Ray Train: the losses of an undisturbed run, also after a worker died."""

import subprocess
import sys

import pytest

from nbdiff_engine import ray_cluster as clusters
from nbdiff_engine.errors import NBDiffError
from tests.forked import ROOT
from tests.training.run.processes import adapt
from tests.training.runs import losses, small_base, small_data, small_recipe, written
from training.__main__ import cli
from training.errors import RunError
from training.run.end_file import Ending, Outcome, read_ending


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_has_the_losses_of_an_undisturbed_run(ray_cluster, tmp_path):
    recipe = small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))
    file = written(recipe, tmp_path / "recipe.yaml")
    program = "from tests.training.on_ray.dying_worker import main; main()"
    options = ["--output", str(tmp_path / "run"), "--workers", "2", "--address", ray_cluster.address]
    done = subprocess.run(
        [sys.executable, "-c", program, "ray", str(file), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run.killed").exists()
    assert "resuming after step 2" in done.stdout + done.stderr
    assert read_ending(tmp_path / "run") == Ending(Outcome.FINISHED)
    assert not list(tmp_path.glob(".run*"))  # what Ray Train wrote
    adapt(recipe, tmp_path / "undisturbed", 2)
    assert losses(tmp_path / "run") == losses(tmp_path / "undisturbed")


@pytest.mark.slow
def test_more_workers_than_cpus_are_refused(ray_cluster):
    with clusters.connected(ray_cluster.address):
        with pytest.raises(NBDiffError, match="3 workers of 1 CPUs need 3, and the Ray cluster has 2; ask for fewer"):
            clusters.check_room("workers", 3, 1.0, 0.0)
        with pytest.raises(NBDiffError, match="1 workers of 1 GPUs need 1, and the Ray cluster has 0"):
            clusters.check_room("workers", 1, 1.0, 1.0)


def command(*options):
    cli(["ray", "smoke", *options], standalone_mode=False)


def test_without_ray_the_command_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NBDiffError, match=r"^Ray is not installed; run pip install"):
        command("--output", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_without_an_address_the_command_asks_for_one(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "require_ray", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(NBDiffError, match=r"^There is no address of a Ray cluster: give HOST:PORT .* or give local"):
        command("--output", str(tmp_path / "run"))


def test_a_folder_with_another_run_is_refused_before_the_cluster_is_asked(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match="is not an empty folder"):
        command("--output", str(tmp_path))
    with pytest.raises(RunError, match=r"There is no run to resume"):
        command("--output", str(tmp_path), "--resume")
