"""Checks and measurements of the machine of a run: peak memory, and the compiler."""

import shutil
import sys

import psutil
import torch

from training.errors import RecipeError


def peak_memory(device: torch.device) -> int:
    """The peak memory of this process in bytes: on the GPU if `device` is one, else in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def require_compiler(device: torch.device) -> None:
    """Raise RecipeError if `device` is a CPU and there is no C++ compiler, which torch.compile needs there."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise RecipeError("compile is on, but there is no C++ compiler for the CPU; install g++, or set compile=false.")
