"""The attention mask: one predicate for training and decoding, as a dense mask or as a FlexAttention mask.

Four facts describe a token: whether it is *noised*, its position, its block and its document. A block is
identified by the position of its first token. A plain autoregressive token is therefore a block of one token,
and so is every token before a response.

| query -> key        | allowed iff                                                                  |
|---------------------|------------------------------------------------------------------------------|
| noised -> noised    | same block: bidirectional inside the block                                   |
| noised -> clean     | the key's block is strictly earlier                                          |
| clean  -> noised    | never                                                                        |
| clean  -> clean     | token-causal: key position <= query position; block-causal: key block <= query block |

In addition, query and key must be in the same document. Source: NBDiff (arXiv 2512.06776), section 3, and the
authors' decoding code.
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

PADDING = -1  # the document of padding: no query attends to it


@dataclass(frozen=True, slots=True)
class Tokens:
    """The facts about consecutive tokens that a mask needs. Every field has shape [B, N]; B may be 1 to broadcast."""

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
    """The block of each position, where the first block of `block_size` tokens begins at `start`.

    Positions before `start` are context: blocks of one token, and therefore causal. Same shape as `position`.
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

    k_open: keys that the earlier noised tokens of their block also see; None: all keys are open. Only the ablation
    that anneals the mask closes some keys.
    """
    # Only & and |, no control flow: FlexAttention traces this function for one element at a time.
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
    """Boolean mask [B, 1, Q, K], True where the query may attend. SDPA accepts it directly.

    Do not give a bool mask to eager attention, which adds the mask to the scores: see `additive`.
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
    """A boolean mask as values to add to the scores: 0 where allowed, the lowest finite value elsewhere."""
    lowest = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, lowest)


def flex_mask(query: Tokens, key: Tokens, context: Context, key_open: Tensor | None = None) -> "BlockMask":
    """The same mask as a FlexAttention BlockMask; its empty tiles cost neither time nor memory."""

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
    """FlexAttention's `create_block_mask`. Imported here because the import also loads torch's compiler (one second).

    The compiled function never holds the whole mask. On a CPU the compilation takes longer than the masks themselves.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask) if compiled else create_block_mask
