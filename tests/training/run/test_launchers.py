"""What a launcher asked for and a run does not do is refused by name."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.training.runs import small_base, small_data, small_recipe, written
from training.errors import RunError
from training.run.launch import start
from training.run.launchers import check_launcher, parent_command, processes_asked, wants_sharding

ROOT = Path(__file__).parents[3]
LAUNCH = ["/env/bin/python", "/env/bin/accelerate", "launch"]


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ],
)
def test_split_weights_are_refused_by_name(variable, name, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, "true")
    recipe = small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))
    with pytest.raises(RunError, match=f"{variable} asks for {name}"):
        start(recipe, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()
    check_launcher({variable: "false"}, [])


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ([*LAUNCH, "--cpu", "--num_processes", "2", "-m", "training", "adapt", "--recipe", "nano"], 2),
        ([*LAUNCH, "--cpu", "--num-processes=3", "train.py"], 3),
        (["/env/bin/python", "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "train.py"], 2),
        (["/env/bin/accelerate-launch", "--cpu", "--num_processes", "2", "train.py"], 2),
        ([*LAUNCH, "--cpu", "-m", "training"], None),
        (["/bin/bash", "launch", "--num_processes", "2"], None),
        (["torchrun", "--nproc-per-node", "2", "-m", "training"], None),
        ([], None),
    ],
)
def test_the_number_of_processes_that_accelerate_launch_asks_for(command, asked):
    assert processes_asked(command) == asked


def test_the_number_of_processes_of_a_config_file(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 4\nuse_cpu: true\n")
    assert processes_asked([*LAUNCH, "--config_file", str(config), "train.py"]) == 4


def test_processes_that_did_not_start_are_refused():
    command = [*LAUNCH, "--cpu", "--num_processes", "2", "-m", "training"]
    with pytest.raises(RunError, match=r"asked for 2 processes and started 1, .* torchrun --standalone .* 2 -m"):
        check_launcher({}, command)
    check_launcher({"WORLD_SIZE": "2"}, command)
    check_launcher({}, ["bash"])


def test_the_command_of_the_parent_is_read():
    assert parent_command() == psutil.Process(os.getppid()).cmdline() != []


@pytest.mark.slow
def test_accelerate_launch_with_two_processes_on_a_cpu_is_refused(tmp_path):
    recipe = small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))
    file = written(recipe, tmp_path / "recipe.yaml")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m"]
    done = subprocess.run(
        [*launch, "training", "adapt", "--recipe", str(file), "--output", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
    )
    assert "error: accelerate launch was asked for 2 processes and started 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_fsdp_of_accelerate_is_taken_in_its_second_version_only():
    check_launcher({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, [])
    assert wants_sharding({"ACCELERATE_USE_FSDP": "true"})
    assert not wants_sharding({})
    with pytest.raises(RunError, match=r"asks for FSDP 1, .* set fsdp_version: 2"):
        check_launcher({"ACCELERATE_USE_FSDP": "1", "FSDP_VERSION": "1"}, [])
