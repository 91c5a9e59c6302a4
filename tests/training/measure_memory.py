"""Run a recipe and print the growth of the process's peak memory, in bytes. test_estimate runs this as a process.

python -m tests.training.measure_memory RECIPE.yaml FOLDER
"""

import ctypes
import logging
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from training.recipe.recipe import Recipe
from training.run.launch import start


def resident(name: str) -> int:
    """VmRSS (resident memory) or VmHWM (its peak), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main(recipe_file: str, folder: str) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    recipe = Recipe.read(recipe_file)
    small = {"packed_length": 32, "rows": 1, "max_steps": 2}
    warm_up = recipe.model_copy(update={"optimisation": recipe.optimisation.model_copy(update=small)})
    start(warm_up, Path(folder) / "warm-up", resume=False)  # imports all modules and creates all kernels
    AcceleratorState._reset_state(reset_partial_state=True)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    start(recipe, Path(folder) / "run", resume=False)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
