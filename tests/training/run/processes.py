"""Runs of the command line in several gloo processes on this machine."""

import os
import subprocess
import sys
from pathlib import Path

from tests.training.runs import written
from training.recipe.recipe import Recipe

ROOT = Path(__file__).parents[3]


def adapt(recipe: Recipe, folder: Path, processes: int, *options: str, **environment: str) -> str:
    """Train a recipe to its end, in `folder`, and return the log."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    file = written(recipe, folder.parent / f"{folder.name}.yaml")
    done = subprocess.run(
        [
            sys.executable,
            *torchrun,
            "-m",
            "training",
            "adapt",
            "--recipe",
            str(file),
            "--output",
            str(folder),
            *options,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
