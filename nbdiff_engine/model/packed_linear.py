"""Linear maps on a CPU as fast as its memory allows: their weights are kept in oneDNN's own layout too.

A product otherwise copies the weights into another layout in each call, or reads them at half of the memory's rate: a
forward of two tokens then takes twice as long as a forward of one, and drafts cannot save time. Measured with
3072 x 576 weights and two threads: in float32 1 row 0.74 ms -> 0.36, 2 rows 1.19 -> 0.52, 8 rows 0.84 -> 0.38; in
bfloat16 1 row 0.37 -> 0.25, 8 rows 0.49 -> 0.23.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

# The packed weights are a copy, so that the network itself still runs. A larger network is not packed.
PACK_LIMIT = 1 << 30  # bytes
# A call of oneDNN costs more than a product of smaller weights.
SMALLEST = 1 << 16  # values


def can_pack(weights: Iterable[Tensor]) -> bool:
    """Whether these weights [out, in] of a network may be packed: on a CPU whose oneDNN computes in their dtype, below
    the limit."""
    weights = list(weights)
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    supported = {torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        supported.add(torch.bfloat16)
    plain = all(each.dtype in supported and each.device.type == "cpu" for each in weights)
    return plain and sum(each.nbytes for each in weights) <= PACK_LIMIT


def packed(weight: Tensor) -> Tensor | None:
    """The weight [out, in] for `linear`; None for one that is too small to gain from it."""
    if weight.numel() < SMALLEST:
        return None
    with torch.no_grad():
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def linear(x: Tensor, weight: Tensor, packed: Tensor | None, bias: Tensor | None) -> Tensor:
    """x [..., in] times a weight [out, in], plus bias: [..., out]. packed: the weight from `packed`."""
    if packed is None:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
