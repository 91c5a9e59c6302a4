"""Head: float32 logits of a network whose weights may be narrower.

With a bf16 head the two best tokens have equal logits at 4 % of positions, and a 1-token pass and a 16-token pass then
choose differently. Float32 products of the same weights have no such ties.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbdiff_engine.model.packed_linear import can_pack, linear, packed

# The largest float32 copy of a narrower head, in bytes. A larger head is widened part by part in each forward: the same
# logits, no copy, and about half again as long for an 8B model's forward.
COPY_LIMIT = 1 << 30
_PART = 4096  # rows of the vocabulary that are widened at once

# Shape suffixes: N positions, D hidden size, V vocabulary.


class Head:
    """The output layer of a network, [N, D] -> float32 [N, V]."""

    def __init__(self, layer: nn.Module, copy_limit: int = COPY_LIMIT, pack: bool = False):
        """layer: the network's output embeddings. copy_limit: bytes that a float32 copy of its weights may take. pack:
        keep its weights in oneDNN's layout too, if `packed_linear` does so with such weights."""
        self._layer = layer
        # A quantised head, and one whose weights are offloaded, is called as a module.
        plain = type(layer) is nn.Linear and not layer.weight.is_meta
        self._weight_VD = layer.weight.detach() if plain else None
        self._bias_V = layer.bias.detach().float() if plain and layer.bias is not None else None
        if plain and not layer.weight.is_cuda and 4 * layer.weight.numel() <= copy_limit:
            self._weight_VD = self._weight_VD.float()  # the weights themselves if they are float32
        self._packed = packed(self._weight_VD) if pack and plain and can_pack([self._weight_VD]) else None

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        weight_VD = self._weight_VD
        if weight_VD is None:
            return self._layer(hidden_ND).float()
        if weight_VD.dtype == torch.float32:
            return linear(hidden_ND.float(), weight_VD, self._packed, self._bias_V)
        if weight_VD.is_cuda and hidden_ND.dtype == weight_VD.dtype:  # the product of narrow inputs, summed in float32
            logits_NV = torch.mm(hidden_ND, weight_VD.t(), out_dtype=torch.float32)
        else:
            wide_ND = hidden_ND.float()
            logits_NV = torch.cat([F.linear(wide_ND, part.float()) for part in weight_VD.split(_PART)], dim=1)
        return logits_NV if self._bias_V is None else logits_NV.add_(self._bias_V)
