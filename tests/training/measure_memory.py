"""Run a few steps of a recipe and print how much the process grew, in bytes: for test_estimate, as a program.

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
    """VmRSS, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main(recipe_file: str, folder: str) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    recipe = Recipe.read(recipe_file)
    small = {"packed_length": 32, "rows": 1, "max_steps": 2}
    warm_up = recipe.model_copy(update={"optimisation": recipe.optimisation.model_copy(update=small)})
    start(warm_up, Path(folder) / "warm-up", resume=False)  # every module imported, every kernel made
    AcceleratorState._reset_state(reset_partial_state=True)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start(recipe, Path(folder) / "run", resume=False)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
