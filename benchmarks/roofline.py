"""The shortest possible time of a forward (roofline model): its bytes and products at the rates of this machine."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import nbdiff_engine as nb

_LARGE = 2**28  # bytes, more than any CPU cache holds
_SIDE = 1024  # side of the square matrices for the arithmetic limit
_TRIALS = 7


@dataclass(frozen=True, slots=True)
class ForwardWork:
    """The work of one forward: bytes to read and floating-point operations."""

    bytes: int  # weights, and keys and values, each read once
    flops: int  # two per multiply-add; only products, which are nearly all operations


def work_of(
    model: nb.BlockModel, width: int, context: int, head_positions: int | None = None, rows: int = 1
) -> ForwardWork:
    """The work of a forward of `width` tokens over `context` committed tokens, in each of `rows` rows.

    head_positions: positions of a row whose logits are computed; default: all.

    Every matrix of the layers is read once and multiplied with every token. Of the embedding only single rows are
    read, which are not counted. The head is stored and multiplied in float32, whatever the dtype of the layers is
    (`BlockModel.logits`). Attention multiplies each query with every key that it attends to (committed or in the
    block), and the weights with the values.
    """
    config = model.network.config
    head_positions = width if head_positions is None else head_positions
    matrices = [each for each in model.body.layers.parameters() if each.dim() == 2]
    weights = sum(each.numel() for each in matrices)
    head = model.vocab_size * config.hidden_size
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = context + width
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * size * keys * rows
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * size * width * keys
    return ForwardWork(
        bytes=sum(each.nbytes for each in matrices) + 4 * head + cache * model.dtype.itemsize,
        flops=rows * (2 * weights * width + 2 * head * head_positions + attention),
    )


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """The rates of this machine with torch's current threads, measured with torch."""

    dtype: str
    memory_bytes_per_second: float  # reading more than the caches hold
    cached_bytes_per_second: float  # reading as many bytes as the model's weights, repeatedly
    flops_per_second: float  # a large product in the model's dtype

    def __str__(self) -> str:
        return (
            f"Limits: {self.memory_bytes_per_second / 1e9:.1f} GB/s from memory, "
            f"{self.cached_bytes_per_second / 1e9:.1f} GB/s at the weights' size, "
            f"{self.flops_per_second / 1e9:.0f} GFLOP/s"
        )

    def seconds(self, work: ForwardWork) -> float:
        """The shortest time of a forward if its weights stay in the cache, as those of a small model do."""
        return max(work.bytes / self.cached_bytes_per_second, work.flops / self.flops_per_second)

    def bound_by(self, work: ForwardWork) -> str:
        """ "reading" or "arithmetic", whichever takes longer."""
        reading = work.bytes / self.cached_bytes_per_second
        return "reading" if reading > work.flops / self.flops_per_second else "arithmetic"


def limits_of(model: nb.BlockModel) -> MachineLimits:
    """Measure the limits on the model's device and in its dtype."""
    device, dtype = model.device, model.dtype
    size = work_of(model, 1, 0).bytes
    square = torch.randn(_SIDE, _SIDE, device=device).to(dtype)
    return MachineLimits(
        dtype=str(dtype).removeprefix("torch."),
        memory_bytes_per_second=_reading(_LARGE, device),
        cached_bytes_per_second=_reading(size, device),
        flops_per_second=2 * _SIDE**3 / _best(lambda: square @ square, device),
    )


def _reading(size: int, device: torch.device) -> float:
    """Bytes per second at which a matrix-vector product reads a matrix of `size` bytes."""
    values = torch.ones(size // 4 // 256, 256, device=device)
    vector = torch.ones(256, device=device)
    return values.nbytes / _best(lambda: values @ vector, device)


def _best(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several calls: the one that other processes disturbed least."""
    call()
    found = float("inf")
    for _ in range(_TRIALS):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found = min(found, time.perf_counter() - started)
    return found
