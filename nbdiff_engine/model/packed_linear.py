"""Linear maps on a CPU as fast as its memory allows: several rows read weights in oneDNN's own layout, a single row
reads a part of the weights in each thread.

A float32 product of several rows otherwise copies the weights into another layout in each call: a forward of two tokens
then takes twice as long as a forward of one, and drafts cannot save time. Measured with 1536 x 576 weights and two
threads: 2 rows 0.88 ms -> 0.39 ms, 8 rows 0.90 -> 0.49, 32 rows 0.99 -> 0.74; 1 row without packing 0.47.

A product of one row otherwise runs in one thread, and one thread does not use the whole bandwidth of the memory.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

# The packed weights are a copy, so that the network itself still runs. A larger network is not packed.
PACK_LIMIT = 1 << 30  # bytes
# Smaller weights stay in the cache of the processor, where the copy costs little. nano's are below.
SMALLEST = 1 << 19  # values


def can_pack(weights: Iterable[Tensor]) -> bool:
    """Whether these weights [out, in] of a network may be packed: float32 on a CPU that has oneDNN, below the limit."""
    weights = list(weights)
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    plain = all(each.dtype == torch.float32 and each.device.type == "cpu" for each in weights)
    return plain and sum(each.nbytes for each in weights) <= PACK_LIMIT


def packed(weight: Tensor) -> Tensor | None:
    """The weight [out, in] for `linear`; None for one that is too small to gain from it."""
    if weight.numel() < SMALLEST:
        return None
    with torch.no_grad():
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def linear(x: Tensor, weight: Tensor, packed: Tensor | None, bias: Tensor | None) -> Tensor:
    """x [..., in] times a weight [out, in], plus bias: [..., out]. packed: the weight from `packed`; it is used for
    several rows, because a single one needs no other layout."""
    if packed is None:
        return F.linear(x, weight, bias)
    if x.numel() == x.shape[-1]:
        return _one_row(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _one_row(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The weight's rows in as many parts as there are threads: torch runs a batch of products in parallel."""
    threads, (out, size) = torch.get_num_threads(), weight.shape
    if threads == 1 or out % threads:
        return F.linear(x, weight, bias)
    parts = weight.view(threads, out // threads, size).transpose(1, 2)
    y = torch.bmm(x.reshape(1, 1, size).expand(threads, 1, size), parts).view(*x.shape[:-1], out)
    return y if bias is None else y + bias
