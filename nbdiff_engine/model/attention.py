"""Who may attend to whom: one predicate for training and decoding, dense or as a FlexAttention mask.

A token is described by four facts: whether it is *noised*, its position, its block and its document. The
block of a token is named by the position of the block's first token, so a plain autoregressive token is a
block of one token, and so is every token before a response.

| query -> key        | allowed iff                                                                  |
|---------------------|------------------------------------------------------------------------------|
| noised -> noised    | same block: bidirectional inside the block                                   |
| noised -> clean     | the key's block is strictly earlier                                          |
| clean  -> noised    | never                                                                        |
| clean  -> clean     | token-causal: key position <= query position; block-causal: key block <= query block |

Documents are and-ed on top. Source: NBDiff (arXiv 2512.06776), section 3, and the authors' decoding code.
Shape suffixes: B rows, Q queries, K keys, L sequence length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Context = Literal["token_causal", "block_causal"]

PADDING = -1  # the document of a token that is not there


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a mask must know of a run of tokens. Every field has shape [B, N]; B may be 1 to broadcast."""

    noised: Tensor  # bool
    position: Tensor  # int64, from 0 in each document
    block: Tensor  # int64, position of the first token of the token's block
    document: Tensor  # int64, PADDING where there is no token

    @classmethod
    def joined(cls, first: Self, second: Self) -> Self:
        """`first` then `second` along the sequence."""
        return cls(
            *(
                torch.cat([getattr(first, name), getattr(second, name)], dim=1)
                for name in ("noised", "position", "block", "document")
            )
        )


def blocks(position: Tensor, start: Tensor | int, block_size: int) -> Tensor:
    """The block of each position, when blocks of `block_size` are laid from `start` on.

    Positions before `start` are context: blocks of one token, hence causal. Same shape as `position`.
    """
    offset = position - start
    return torch.where(offset < 0, position, position - offset % block_size)


def may_attend(
    q_noised: Tensor,
    q_position: Tensor,
    q_block: Tensor,
    q_document: Tensor,
    k_noised: Tensor,
    k_position: Tensor,
    k_block: Tensor,
    k_document: Tensor,
    context: Context,
    k_open: Tensor | None = None,
) -> Tensor:
    """The predicate. Elementwise over broadcastable tensors, so that a dense mask and FlexAttention share it.

    k_open: keys that noised tokens of their block see even from before them; None is all. Only the ablation that
    anneals the mask closes some.
    """
    # Written with & and | alone: FlexAttention traces it one element at a time.
    clean_to_clean = k_position <= q_position if context == "token_causal" else k_block <= q_block
    in_block = k_block == q_block
    if k_open is not None:
        in_block = in_block & (k_open | (k_position <= q_position))
    allowed = (
        (q_noised & k_noised & in_block)
        | (q_noised & ~k_noised & (k_block < q_block))
        | (~q_noised & ~k_noised & clean_to_clean)
    )
    return allowed & (q_document == k_document) & (k_document != PADDING)


def dense_mask(query: Tokens, key: Tokens, context: Context, key_open: Tensor | None = None) -> Tensor:
    """Boolean mask [B, 1, Q, K], True where the query may attend. What SDPA takes as it is.

    Eager attention must not be given a bool mask (it adds it to the scores): see `additive`.
    """
    return may_attend(
        query.noised[:, :, None],
        query.position[:, :, None],
        query.block[:, :, None],
        query.document[:, :, None],
        key.noised[:, None, :],
        key.position[:, None, :],
        key.block[:, None, :],
        key.document[:, None, :],
        context,
        None if key_open is None else key_open[:, None, :],
    )[:, None]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as what is added to the scores: 0 where allowed, the lowest finite value elsewhere."""
    lowest = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, lowest)


def flex_mask(query: Tokens, key: Tokens, context: Context, key_open: Tensor | None = None) -> "BlockMask":
    """The same mask as a FlexAttention BlockMask, whose empty tiles cost neither time nor memory."""

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return may_attend(
            query.noised[b, q],
            query.position[b, q],
            query.block[b, q],
            query.document[b, q],
            key.noised[b, k],
            key.position[b, k],
            key.block[b, k],
            key.document[b, k],
            context,
            None if key_open is None else key_open[b, k],
        )

    batch, queries = query.position.shape
    create = _block_mask_maker(query.position.is_cuda)
    return create(mask_mod, B=batch, H=None, Q_LEN=queries, KV_LEN=key.position.shape[1], device=query.position.device)


@cache
def _block_mask_maker(compiled: bool) -> "Callable[..., BlockMask]":
    """FlexAttention's own function. Imported where it is used: it brings torch's compiler along, a second's import.

    Compiled, it never holds the whole mask; on a CPU compiling takes longer than any mask it is asked for.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask) if compiled else create_block_mask
