"""Attention of the training pass on a CPU, computed by the pieces of `training.objective.attention_plan`.

A transformers network calls it by the name `DOCUMENTS` instead of its own attention; nothing else changes. It calls
torch's SDPA kernel for CPUs below autograd, which also returns the log-sum-exp. With it, the outputs for the two parts
of a run, the keys before it and the keys inside it, are combined. The backward kernel computes the gradients of each
part from the combined output and log-sum-exp (as in ring attention, arXiv 2310.01889). Queries, keys and values are
saved once for the backward pass, without copies for grouped heads. Scores are float32 in any precision: on CPUs like
ours the kernel is faster in float32 than in bfloat16 (a quarter of the time at 64 keys, about the same at thousands).

It is a custom operator of torch, so a compiled network contains it as one operation that is not traced.

Shape suffixes: T tokens, H heads, D head size, G parts of a piece, Q queries, K keys.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from nbdiff_engine.errors import SettingError
from training.objective.attention_plan import AttentionPlan, Piece

DOCUMENTS = "nbdiff_documents"  # its name in transformers

_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_kernel_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    plan: AttentionPlan | None = None,
    **other,
) -> tuple[Tensor, None]:
    """Called by transformers. query: [1, H, T, D]; key, value: the same with their own number of heads.

    Returns [1, T, H, D]. Raises SettingError for dropout, a soft cap, or a call without a plan.
    """
    if plan is None or dropout or other.get("softcap") is not None:
        raise SettingError(
            f"{DOCUMENTS} supports only training with a plan, without dropout and without soft caps; "
            "set attention=dense."
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out, _ = document_attention(query, key, value, *plan, scale)
    return out, None


AttentionInterface.register(DOCUMENTS, attend)


@torch.library.custom_op("nbdiff::document_attention", mutates_args=())
def document_attention(
    query: Tensor, key: Tensor, value: Tensor, pieces: Tensor, index: Tensor, masks: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [1, T, H, D] in the dtype of `value`, and the log-sum-exp [T, H] in float32."""
    q, k, v = (_tokens_first(each) for each in (query, key, value))
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
    for piece, queries, keys, mask in _each(pieces, index, masks):
        there = queries >= 0
        q_GHQD = _taken(q, queries)
        own, own_lse = _kernel(q_GHQD, _taken(k, keys), _taken(v, keys), attn_mask=mask, scale=scale)
        if piece.before_end > piece.before:
            seen = slice(piece.before, piece.before_end)
            earlier, earlier_lse = _kernel(q_GHQD, _heads_first(k[seen]), _heads_first(v[seen]), scale=scale)
            both_lse = torch.logaddexp(own_lse, earlier_lse)
            own = own * (own_lse - both_lse).exp()[..., None] + earlier * (earlier_lse - both_lse).exp()[..., None]
            own_lse = both_lse
        out[queries[there]] = own.transpose(1, 2)[there]
        lse[queries[there]] = own_lse.transpose(1, 2)[there]
    return out[None].to(value.dtype), lse


@document_attention.register_fake
def _(query, key, value, pieces, index, masks, scale):
    _, heads, tokens, size = query.shape
    return value.new_empty(1, tokens, heads, size), query.new_empty(tokens, heads, dtype=torch.float32)


@torch.library.custom_op("nbdiff::document_attention_backward", mutates_args=())
def document_attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    pieces: Tensor,
    index: Tensor,
    masks: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, in their shapes and dtypes."""
    q, k, v = (_tokens_first(each) for each in (query, key, value))
    d_out, out = gradient[0].float(), out[0].float()
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for piece, queries, keys, mask in _each(pieces, index, masks):
        there = queries >= 0
        taken = _taken(d_out, queries), _taken(q, queries)
        taken[0].transpose(1, 2)[~there] = 0.0
        result = _taken(out, queries), lse[queries.clamp(min=0)].transpose(1, 2)
        own = _taken(k, keys), _taken(v, keys)
        found, *own_found = _kernel_backward(*taken, *own, *result, 0.0, False, attn_mask=mask, scale=scale)
        for whole, part in zip((dk, dv), own_found, strict=True):
            whole.index_add_(0, keys.clamp(min=0).flatten(), part.transpose(1, 2).flatten(0, 1))
        if piece.before_end > piece.before:
            seen = slice(piece.before, piece.before_end)
            earlier = _heads_first(k[seen]), _heads_first(v[seen])
            more, *earlier_found = _kernel_backward(*taken, *earlier, *result, 0.0, False, scale=scale)
            found = found + more
            for whole, part in zip((dk, dv), earlier_found, strict=True):
                whole[seen] += part[0].transpose(0, 1)
        dq[queries[there]] = found.transpose(1, 2)[there]
    return tuple(
        each.transpose(0, 1)[None].to(like.dtype) for each, like in zip((dq, dk, dv), (query, key, value), strict=True)
    )


@document_attention_backward.register_fake
def _(gradient, query, key, value, out, lse, pieces, index, masks, scale):
    return tuple(
        each.new_empty(1, each.shape[2], each.shape[1], each.shape[3]).transpose(1, 2) for each in (query, key, value)
    )


def _keep(ctx, inputs, output) -> None:
    query, key, value, pieces, index, masks, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output, pieces, index, masks)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, gradient: Tensor, _: Tensor | None):
    found = document_attention_backward(gradient, *ctx.saved_tensors, ctx.scale)
    return *found, None, None, None, None


document_attention.register_autograd(_backward, setup_context=_keep)


def _each(pieces: Tensor, index: Tensor, masks: Tensor) -> Iterator[tuple[Piece, Tensor, Tensor, Tensor]]:
    """The pieces, each with its queries [G, Q], keys [G, K] and mask [G, 1, Q, K]."""
    for row in pieces.tolist():
        piece = Piece(*row)
        g, q, k = piece[:3]
        yield (
            piece,
            index[piece.query_at :][: g * q].view(g, q),
            index[piece.key_at :][: g * k].view(g, k),
            masks[piece.mask_at :][: g * q * k].view(g, 1, q, k),
        )


def _tokens_first(each_1HTD: Tensor) -> Tensor:
    return each_1HTD[0].transpose(0, 1).float()


def _heads_first(each_THD: Tensor) -> Tensor:
    return each_THD.transpose(0, 1)[None]


def _taken(each_THD: Tensor, places_GN: Tensor) -> Tensor:
    """The tokens at `places_GN`, [G, H, N, D]. For -1 (padding) it returns the first token."""
    groups, number = places_GN.shape
    taken = each_THD.index_select(0, places_GN.clamp(min=0).flatten())
    return taken.view(groups, number, *each_THD.shape[1:]).transpose(1, 2)
