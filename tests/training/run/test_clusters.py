"""The configs of training/clusters are what accelerate and a shell read."""

import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from training.run.launchers import processes_asked

CLUSTERS = Path(__file__).parents[3] / "training" / "clusters"


@pytest.mark.parametrize(
    ("name", "machines", "processes", "kind"),
    [
        ("one-node-8-gpus", 1, 8, "FSDP"),
        ("one-node-8-gpus-ddp", 1, 8, "MULTI_GPU"),
        ("four-nodes-of-8-gpus", 4, 32, "FSDP"),
    ],
)
def test_accelerate_reads_the_configs(name, machines, processes, kind):
    file = CLUSTERS / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert str(getattr(config.distributed_type, "value", config.distributed_type)) == kind
    assert config.fsdp_config == ({"fsdp_version": 2} if kind == "FSDP" else {})
    launch = ["python", "accelerate", "launch", "--config_file", str(file), "-m", "training", "adapt"]
    assert processes_asked(launch) == processes
    assert f"--config_file training/clusters/{name}.yaml" in file.read_text(encoding="utf-8")


def test_all_configs_are_tested_and_the_script_is_valid():
    assert {path.stem for path in CLUSTERS.iterdir()} == {
        "one-node-8-gpus",
        "one-node-8-gpus-ddp",
        "four-nodes-of-8-gpus",
        "slurm",
    }
    subprocess.run(["bash", "-n", str(CLUSTERS / "slurm.sh")], check=True)
