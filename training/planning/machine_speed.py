"""What a machine offers a run: the rate of its matrix products, and its memory."""

import os
import time

import torch

from training.planning.layer_sizes import Layer


def measure_matmul(device: str, precision: str, layer: Layer, tokens: int, seconds: float = 1.0) -> float | None:
    """Floating-point operations per second of a product with a layer's sizes; None without such a device."""
    if device == "cuda" and not torch.cuda.is_available():
        return None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    large = 4096 if device == "cuda" else 1024  # on a CPU, one product of a large layer would take seconds
    sizes = [max(1, min(size, large)) for size in (tokens, layer.hidden, layer.feed_forward)]
    left = torch.randn(sizes[0], sizes[1], device=device).to(dtype)
    right = torch.randn(sizes[1], sizes[2], device=device).to(dtype)
    torch.mm(left, right)
    if device == "cuda":
        torch.cuda.synchronize()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(20 if device == "cuda" else 1):
            torch.mm(left, right)
            done += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return done * 2 * sizes[0] * sizes[1] * sizes[2] / (time.perf_counter() - started)


def memory_of_machine(device: str) -> int | None:
    """Total memory of the device in bytes; None without such a device."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
