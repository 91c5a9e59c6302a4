"""What a run asks of the machine that it runs on."""

import resource
import shutil
import sys

import torch

from training.errors import RecipeError


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: of the GPU where it trains on one, else of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def require_compiler(device: torch.device) -> None:
    """Raise RecipeError where torch.compile is asked for on a CPU without a C++ compiler."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise RecipeError("compile is on, which needs a C++ compiler on a CPU, and there is none; set compile=false.")
