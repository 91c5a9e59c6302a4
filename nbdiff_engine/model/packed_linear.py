"""Linear maps on a CPU whose weights are kept in oneDNN's own layout.

A float32 product of several rows otherwise copies the weights into another layout in each call: a forward of two tokens
then takes twice as long as a forward of one, and drafts cannot save time. Measured with 1536 x 576 weights and two
threads: 2 rows 0.88 ms -> 0.39 ms, 8 rows 0.90 -> 0.49, 32 rows 0.99 -> 0.74; 1 row without packing 0.47.
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
    """x [..., in] times a weight, plus bias: [..., out]. packed: the weight from `packed`; it is used for several rows,
    because a single one needs no other layout."""
    if packed is None or x.numel() == x.shape[-1]:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
