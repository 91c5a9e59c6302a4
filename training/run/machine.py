"""Checks and measurements of the machine of a run: memory, the GPU, and the compiler."""

import logging
import shutil
import sys
from functools import cache

import psutil
import torch

from training.errors import RecipeError

logger = logging.getLogger(__name__)


def peak_memory(device: torch.device) -> int:
    """The peak memory of this process in bytes: on the GPU if `device` is one, else in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def process_memory() -> int:
    """The RAM of this process in bytes, now."""
    return psutil.Process().memory_info().rss


def gpu_memory(device: torch.device) -> int | None:
    """What PyTorch holds on a GPU in bytes, now: tensors, and memory kept for later ones. None for another device."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None


def gpu_use(device: torch.device) -> int | None:
    """The percent of the last sample period (at most one second) in which a GPU computed, as nvidia-smi shows it.

    None for another device, and where PyTorch cannot ask: without the package nvidia-ml-py, or on a part of a GPU.
    """
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device)
    except Exception as error:  # the driver's errors have many types, and a figure of a log must not end a run
        _say_once(f"The use of the GPU is not logged: {error}. It needs the package nvidia-ml-py and a whole GPU.")
        return None


@cache
def _say_once(sentence: str) -> None:
    logger.info(sentence)


def require_compiler(device: torch.device) -> None:
    """Raise RecipeError if `device` is a CPU and there is no C++ compiler, which torch.compile needs there."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise RecipeError("compile is on, but there is no C++ compiler for the CPU; install g++, or set compile=false.")
