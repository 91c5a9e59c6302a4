"""How fast a forward could be at best: what it must read and compute against what this machine can read and compute."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import nbdiff_engine as nb

_LARGE = 2**28  # bytes: far beyond any cache
_SIDE = 1024  # of the square matrices whose product shows the arithmetic limit
_TRIALS = 7


@dataclass(frozen=True, slots=True)
class Work:
    """What one forward of `width` tokens over `context` committed ones must do."""

    bytes: int  # weights, and keys and values, each read once
    flops: int  # two per multiply-add; products alone, which are nearly all


def work_of(model: nb.BlockModel, width: int, context: int, wanted: int | None = None) -> Work:
    """The work of a forward. wanted: positions that go through the head; all unless given.

    Every matrix of the layers is read once and multiplied with every token; the embedding gives up single rows. The
    head is kept and multiplied in float32, whatever the layers are in (`BlockModel.logits`). Attention multiplies
    each query with every key it may see, committed or of the block, and the result with every value.
    """
    config = model.network.config
    wanted = width if wanted is None else wanted
    matrices = [each for each in model.body.layers.parameters() if each.dim() == 2]
    weights = sum(each.numel() for each in matrices)
    head = model.vocab_size * config.hidden_size
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = context + width
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * size * keys
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * size * width * keys
    return Work(
        bytes=sum(each.nbytes for each in matrices) + 4 * head + cache * model.dtype.itemsize,
        flops=2 * weights * width + 2 * head * wanted + attention,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What this machine does with the threads that torch has now, measured with torch itself."""

    dtype: str
    memory_bytes_per_second: float  # reading what no cache holds
    cached_bytes_per_second: float  # reading as much as the model's weights, again and again
    flops_per_second: float  # a large product in the model's dtype

    def __str__(self) -> str:
        return (
            f"Limits: {self.memory_bytes_per_second / 1e9:.1f} GB/s from memory, "
            f"{self.cached_bytes_per_second / 1e9:.1f} GB/s at the weights' size, "
            f"{self.flops_per_second / 1e9:.0f} GFLOP/s"
        )

    def seconds(self, work: Work) -> float:
        """The least time of a forward whose weights stay in the cache, as a small model's do."""
        return max(work.bytes / self.cached_bytes_per_second, work.flops / self.flops_per_second)

    def bound_by(self, work: Work) -> str:
        reading = work.bytes / self.cached_bytes_per_second
        return "reading" if reading > work.flops / self.flops_per_second else "arithmetic"


def limits_of(model: nb.BlockModel) -> Limits:
    """Measure the limits on the model's device, in its dtype."""
    device, dtype = model.device, model.dtype
    size = work_of(model, 1, 0).bytes
    square = torch.randn(_SIDE, _SIDE, device=device).to(dtype)
    return Limits(
        dtype=str(dtype).removeprefix("torch."),
        memory_bytes_per_second=_reading(_LARGE, device),
        cached_bytes_per_second=_reading(size, device),
        flops_per_second=2 * _SIDE**3 / _best(lambda: square @ square, device),
    )


def _reading(size: int, device: torch.device) -> float:
    """Bytes a second of reading a tensor of `size` bytes as a product reads its weights: each once, added up."""
    values = torch.ones(size // 4 // 256, 256, device=device)
    vector = torch.ones(256, device=device)
    return values.nbytes / _best(lambda: values @ vector, device)


def _best(call: Callable[[], object], device: torch.device) -> float:
    """The shortest of some calls, in seconds: a limit is what is reached when nothing disturbs."""
    call()
    found = float("inf")
    for _ in range(_TRIALS):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found = min(found, time.perf_counter() - started)
    return found
