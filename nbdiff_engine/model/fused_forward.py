"""A faster forward over the weights of a stock network: the same arithmetic in fewer, larger operations.

A small model at batch 1 spends more time on starting operations than on computing them. Here a layer of Llama, Qwen2
or Qwen3 takes about 25 operations instead of 70: q, k and v are one matrix product, gate and up another, cos and sin
of RoPE come from a table, keys and values are not repeated for the query heads that share them, and no mask is built
if every query sees every key. The LoRA of a draft adapter is added at noise rows. Other layers, quantised layers and
merged adapters in training run with the code of transformers.

The results are compared with the network's own logits: at every load (`network_check.check_network`), and in tests,
bit for bit where the arithmetic allows it. Shape suffixes: B rows, Q queries, K keys, D hidden size, P positions,
H heads of size E.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model

from nbdiff_engine.model import packed_linear
from nbdiff_engine.model.draft_adapter import DraftAdapter, LowRank, NoiseRows
from nbdiff_engine.model.layer_kinds import window_of

_LAYERS = {LlamaModel: LlamaDecoderLayer, Qwen2Model: Qwen2DecoderLayer, Qwen3Model: Qwen3DecoderLayer}
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # the others depend on the length of the text


@dataclass(frozen=True, slots=True)
class _Product:
    """One linear map, or several with concatenated outputs."""

    weight: Tensor
    packed: Tensor | None  # the weight once more, as `packed_linear` reads it
    bias: Tensor | None
    change: LowRank | None  # of a draft adapter

    @classmethod
    def of(cls, layers: Sequence[nn.Linear], changes: Mapping[nn.Module, LowRank], pack: bool) -> Self:
        """The layers' outputs, concatenated. Their weights become views of the joined tensor: no extra memory.

        changes: of a draft adapter, by layer. pack: keep the weight in oneDNN's layout too.
        """
        change = LowRank.joined([changes.get(each) for each in layers], [each.out_features for each in layers])
        if pack and change is not None:
            change = change.pack()
        if len(layers) == 1:
            weight = layers[0].weight.detach()
            bias = None if layers[0].bias is None else layers[0].bias.detach()
        else:
            weight = _joined([each.weight for each in layers])
            bias = None if layers[0].bias is None else _joined([each.bias for each in layers])
        return cls(weight, packed_linear.packed(weight) if pack else None, bias, change)

    def __call__(self, x: Tensor, noise: NoiseRows | None) -> Tensor:
        y = packed_linear.linear(x, self.weight, self.packed, self.bias)
        return y if noise is None or self.change is None else self.change.add_to(y, x, noise)


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of one layer, and its activation."""

    norm_before: Tensor
    qkv: _Product
    head_norm: Tensor | None  # Qwen3's norms of query and key heads, [H, E]
    out: _Product
    norm_between: Tensor
    gate_up: _Product
    activation: Callable[[Tensor], Tensor]
    down: _Product


class FusedBody:
    """The layers of one network. `BlockModel.hidden` calls it instead of the network's body."""

    def __init__(self, network: PreTrainedModel, draft: DraftAdapter | None = None):
        """network: one for which `can_fuse` is True. draft: its draft adapter."""
        body, config = network.base_model, network.config
        attention = body.layers[0].self_attn
        self.head_size = attention.head_dim
        self.query_heads = config.num_attention_heads
        self.key_heads = config.num_key_value_heads
        self.scale = attention.scaling
        self.eps = config.rms_norm_eps
        self.embedding = body.embed_tokens
        self.last_norm = body.norm.weight.detach()
        self.rotary = body.rotary_emb
        self.turns_PE = torch.empty(0, 2 * self.head_size)  # cos, then sin with the sign of its first half inverted
        changes = {} if draft is None else draft.changes
        pack = packed_linear.can_pack(each.weight for each in body.layers.modules() if isinstance(each, nn.Linear))
        self.layers = [self._layer(each, changes, pack) for each in body.layers]

    def _layer(self, layer: nn.Module, changes: Mapping[nn.Module, LowRank], pack: bool) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        head_norm = None
        if hasattr(attention, "q_norm"):  # of the three classes, only Qwen3 has it
            norms = (attention.q_norm, self.query_heads), (attention.k_norm, self.key_heads)
            head_norm = torch.cat([norm.weight.detach().expand(heads, -1) for norm, heads in norms])
        return _Layer(
            norm_before=layer.input_layernorm.weight.detach(),
            qkv=_Product.of([attention.q_proj, attention.k_proj, attention.v_proj], changes, pack),
            head_norm=head_norm,
            out=_Product.of([attention.o_proj], changes, pack),
            norm_between=layer.post_attention_layernorm.weight.detach(),
            gate_up=_Product.of([mlp.gate_proj, mlp.up_proj], changes, pack),
            activation=mlp.act_fn,
            down=_Product.of([mlp.down_proj], changes, pack),
        )

    def __call__(
        self,
        ids_BQ: Tensor,
        mask: Tensor | None,
        position_BQ: Tensor,
        cache: Cache,
        longest: int,
        noise: NoiseRows | None = None,
    ) -> Tensor:
        """Hidden states [B, Q, D]; writes keys and values to `cache`.

        mask: additive, [B or 1, 1, Q, K]; None if every query sees every key. position_BQ: RoPE positions, [B, Q]
        or [1, Q], all below `longest`. noise: the rows at which the draft adapter acts.
        """
        x_BQD = self.embedding(ids_BQ)
        rows, width, size = *ids_BQ.shape, self.head_size
        turned, heads = self.query_heads + self.key_heads, self.query_heads + 2 * self.key_heads
        turns = F.embedding(position_BQ, self._turns(longest, x_BQD))[:, :, None]
        cos, sin = turns[..., :size], turns[..., size:]
        for number, layer in enumerate(self.layers):
            heads_BQHE = layer.qkv(self._norm(x_BQD, layer.norm_before), noise).view(rows, width, heads, size)
            qk_BQHE = heads_BQHE[:, :, :turned]
            if layer.head_norm is not None:
                qk_BQHE = self._norm(qk_BQHE, layer.head_norm)
            # RoPE: x cos + (-second half, first half) sin; the table contains the sign.
            rotated = (qk_BQHE * cos).add_(qk_BQHE.roll(size // 2, -1).mul_(sin)).transpose(1, 2)
            keys, values = cache.layers[number].update(
                rotated[:, self.query_heads :], heads_BQHE[:, :, turned:].transpose(1, 2)
            )
            attended = self._attend(rotated[:, : self.query_heads], keys, values, mask)
            x_BQD = x_BQD + layer.out(attended.transpose(1, 2).reshape(rows, width, -1), noise)
            gate, up = layer.gate_up(self._norm(x_BQD, layer.norm_between), noise).chunk(2, dim=-1)
            x_BQD = x_BQD + layer.down(layer.activation(gate) * up, noise)
        return self._norm(x_BQD, self.last_norm)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        rows, heads, width, size = query.shape
        share = self.query_heads // self.key_heads
        if query.is_cuda and mask is not None:  # the fast CUDA kernels support a mask or shared heads, not both
            key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
        elif not query.is_cuda and width == 1 and query.itemsize == 2:
            # The CPU kernel for 16-bit values is slow with one query per head: the query heads that share a key head
            # become its queries. Measured with 32 rows over 250 keys: 9.4 ms -> 1.2 ms.
            query = query.reshape(rows, self.key_heads, share, size)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=self.scale, enable_gqa=query.shape[1] != key.shape[1]
        )
        return attended.view(rows, heads, width, size)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the last axis. Rounds before the product with the weight, as the stock layers do."""
        if x.dtype == torch.float32 and weight.dim() == 1:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def _turns(self, longest: int, like: Tensor) -> Tensor:
        """cos and signed sin of at least `longest` positions, [P, 2 E], computed by the network's own RoPE."""
        if len(self.turns_PE) < longest or self.turns_PE.dtype != like.dtype:
            count = max(longest, 2 * len(self.turns_PE), 256)
            cos, sin = self.rotary(like, torch.arange(count, device=like.device)[None])
            half = self.head_size // 2
            self.turns_PE = torch.cat([cos[0], -sin[0, :, :half], sin[0, :, half:]], dim=-1)
        return self.turns_PE


def can_fuse(network: PreTrainedModel) -> bool:
    """Whether FusedBody supports a network: stock layers, plain weights, and RoPE over the full head size."""
    body, config = network.base_model, network.config
    layer_type = _LAYERS.get(type(body))
    if layer_type is None or any(type(each) is not layer_type for each in body.layers):
        return False
    if config._attn_implementation != "sdpa" or getattr(config, "quantization_config", None) is not None:
        return False
    if window_of(config) is not None:  # its layers have different masks
        return False
    if body.rotary_emb.rope_type not in _FIXED_ROPE:
        return False
    if 2 * body.rotary_emb.inv_freq.numel() != body.layers[0].self_attn.head_dim:
        return False
    parts = [
        getattr(layer.self_attn, name) for layer in body.layers for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    ]
    parts += [getattr(layer.mlp, name) for layer in body.layers for name in ("gate_proj", "up_proj", "down_proj")]
    return all(type(each) is nn.Linear for each in parts)  # an adapter or a quantised layer has another type


def _joined(parts: Sequence[nn.Parameter]) -> Tensor:
    """Parameters concatenated along their first axis; each becomes a view of the result."""
    whole = torch.cat([each.detach() for each in parts])
    first = 0
    for each in parts:
        each.data = whole[first : first + len(each)]
        first += len(each)
    return whole
