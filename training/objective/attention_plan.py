"""Split the attention of the training pass into small pieces that together contain every allowed query-key pair.

The mask of `[noised ; clean]` is sparse: no token attends to another document, a clean token attends to no noised one,
and a noised token attends only to its own block and to the clean tokens before it. So the tokens are concatenated
without padding, and attention is computed piece by piece:

| piece                                     | queries                     | keys                                       |
|-------------------------------------------|-----------------------------|--------------------------------------------|
| several short documents                   | all their tokens            | all their tokens, masked                   |
| a run of clean tokens of a long document  | `_RUN` of them              | all before it, and the run itself, masked  |
| a run of noised tokens of a long document | `_RUN` of them              | the clean ones before its first block, and |
|                                           |                             | the tokens of the run's blocks, masked     |

Every query is in exactly one piece. The keys before a run need no mask, so the memory of the masks grows with the
length, not with its square. Inside the masked parts `nbdiff_engine.model.attention.may_attend` decides, as in a dense
mask.

Shape suffixes: B rows, S noised + clean tokens of a row, T tokens of all rows, without padding.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nbdiff_engine.model.attention import PADDING, Context, Tokens, may_attend

_SHORT = 256  # a document of at most so many noised and clean tokens is not split
_RUN = 256  # queries per piece of a longer document
_ROUND = 16  # short documents share a piece if their sizes, rounded up to a multiple of this, are equal


class AttentionPlan(NamedTuple):
    """Pieces as tensors, so that a compiled network accepts a new plan at every step without recompilation."""

    pieces: Tensor  # int64 [pieces, 8]: see `Piece`
    index: Tensor  # int64: indices of queries and keys into the T tokens, piece after piece; -1 is padding
    masks: Tensor  # float32: values that are added to the scores, piece after piece


class Piece(NamedTuple):
    """One row of `AttentionPlan.pieces`: G documents or runs, each padded to Q queries and K masked keys."""

    number: int  # G
    queries: int  # Q
    keys: int  # K
    query_at: int  # offset of its [G, Q] queries in the index
    key_at: int  # offset of its [G, K] keys in the index
    mask_at: int  # offset of its [G, Q, K] mask in the masks
    before: int  # all its queries also attend to keys before..before_end-1
    before_end: int


@dataclass(frozen=True, slots=True)
class Span:
    """Indices first..last-1 of the T tokens."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def places(self) -> Tensor:
        return torch.arange(self.first, self.last)


_NONE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """The queries and keys of a document or a run, before they are batched with others."""

    queries: Tensor
    keys: Tensor
    before: Span = _NONE  # keys that every query attends to, without a mask


def pairs(clean: int, noised: int, block_size: int) -> tuple[int, int]:
    """Query-key pairs that are computed for a row of one document, and how many of them are masked parts.

    Rows of several documents have fewer.
    """
    if clean + noised <= _SHORT:
        whole = (clean + noised) ** 2
        return whole, whole
    run = min(_RUN, clean)
    masked = clean * run + noised * (run + min(_RUN + 2 * block_size, noised))
    return (clean + noised) * clean // 2 + masked, masked


def present(tokens: Tokens) -> Tensor:
    """Bool [B, S]: the positions that are not padding. If all are padding, the first one is set."""
    there = tokens.document != PADDING
    if not there.any():
        there[0, 0] = True
    return there


def plan_of(tokens: Tokens, there: Tensor, context: Context, open_future: Tensor | None = None) -> AttentionPlan:
    """The plan of the tokens at which `there` is true, concatenated row by row.

    tokens: [B, S]; the noised tokens of a document are consecutive, and so are its clean tokens, with blocks in
        order, as in the output of `noising.noise`.
    open_future: bool [B, S], see `objective.Objective.forward`.
    """
    rows = torch.arange(there.shape[0])[:, None] * (int(tokens.document.max()) + 2)
    flat = Tokens(
        noised=tokens.noised[there],
        position=tokens.position[there],
        block=tokens.block[there],
        document=torch.where(tokens.document == PADDING, PADDING, tokens.document + rows)[there],
    )
    opened = None if open_future is None else open_future[there]
    short: dict[int, list[Part]] = {}
    pieces = []
    for noised, clean in _documents(flat):
        size = len(noised) + len(clean)
        if size <= _SHORT:
            places = torch.cat([noised.places(), clean.places()])
            short.setdefault(-(-size // _ROUND), []).append(Part(places, places))
        else:
            pieces += [[part] for part in _clean_runs(flat, clean, context)]
            pieces += [[part] for part in _noised_runs(flat, noised, clean)]

    def allowed(queries: Tensor, keys: Tensor) -> Tensor:
        # As in the dense mask, every token attends to itself, so no softmax is empty.
        return _may_attend(queries, keys, flat, context, opened) | (queries[:, :, None] == keys[:, None, :])

    return batched([*short.values(), *pieces], allowed)


def _documents(flat: Tokens) -> list[tuple[Span, Span]]:
    """The noised and the clean tokens of each document."""
    border = torch.ones(len(flat.document), dtype=torch.bool)
    border[1:] = (flat.document[1:] != flat.document[:-1]) | (flat.noised[1:] != flat.noised[:-1])
    first = border.nonzero()[:, 0]
    edges = [*first.tolist(), len(border)]
    found: dict[int, list[Span]] = {}
    labels = zip(flat.document[first].tolist(), flat.noised[first].tolist(), strict=True)
    for at, (document, noised) in enumerate(labels):
        halves = found.setdefault(document, [_NONE, _NONE])
        halves[0 if noised else 1] = Span(edges[at], edges[at + 1])
    return [(noised, clean) for noised, clean in found.values()]


def _clean_runs(flat: Tokens, clean: Span, context: Context) -> list[Part]:
    parts, blocks = [], flat.block[clean.first : clean.last]
    for first in range(clean.first, clean.last, _RUN):
        last = min(first + _RUN, clean.last)
        end = last
        if context == "block_causal":  # the last token attends to its whole block
            end = clean.first + int(torch.searchsorted(blocks, blocks[last - 1 - clean.first], right=True))
        parts.append(Part(torch.arange(first, last), torch.arange(first, end), Span(clean.first, first)))
    return parts


def _noised_runs(flat: Tokens, noised: Span, clean: Span) -> list[Part]:
    parts = []
    clean_blocks = flat.block[clean.first : clean.last].contiguous()
    noised_blocks = flat.block[noised.first : noised.last].contiguous()
    for first in range(noised.first, noised.last, _RUN):
        last = min(first + _RUN, noised.last)
        ends = flat.block[[first, last - 1]]
        # The clean tokens before the run's first block end at `before`, those before its last block at `until`.
        # The noised tokens of the run's blocks are start..stop-1.
        before, until = (clean.first + torch.searchsorted(clean_blocks, ends)).tolist()
        start = noised.first + int(torch.searchsorted(noised_blocks, ends[0]))
        stop = noised.first + int(torch.searchsorted(noised_blocks, ends[1], right=True))
        keys = torch.cat([torch.arange(start, stop), torch.arange(before, until)])
        parts.append(Part(torch.arange(first, last), keys, Span(clean.first, before)))
    return parts


def batched(groups: Iterable[list[Part]], allowed: Callable[[Tensor, Tensor], Tensor]) -> AttentionPlan:
    """The plan of parts; those of a group become one piece.

    allowed: from the indices of queries [G, Q] and keys [G, K], -1 for padding, to the bool mask [G, Q, K]. What it
        says of padding does not matter.
    """
    pieces, index, masks = [], [], []
    placed = masked = 0
    for parts in groups:
        queries, keys = _padded([part.queries for part in parts]), _padded([part.keys for part in parts])
        mask = _additive(allowed(queries, keys) & (keys >= 0)[:, None, :])
        number, before = len(parts), parts[0].before
        at = placed, placed + queries.numel(), masked
        pieces.append(Piece(number, queries.shape[1], keys.shape[1], *at, before.first, before.last))
        index += [queries.flatten(), keys.flatten()]
        masks.append(mask.flatten())
        placed += queries.numel() + keys.numel()
        masked += mask.numel()
    return AttentionPlan(torch.tensor(pieces), torch.cat(index), torch.cat(masks))


def _padded(places: list[Tensor]) -> Tensor:
    """Index lists as one tensor [G, longest], padded with -1."""
    return torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)


def _may_attend(queries: Tensor, keys: Tensor, flat: Tokens, context: Context, opened: Tensor | None) -> Tensor:
    """The predicate for queries [G, Q] and keys [G, K]: bool [G, Q, K]."""
    q, k = queries.clamp(min=0), keys.clamp(min=0)
    names = ("noised", "position", "block", "document")
    return may_attend(
        *(getattr(flat, name)[q][:, :, None] for name in names),
        *(getattr(flat, name)[k][:, None, :] for name in names),
        context,
        None if opened is None else opened[k][:, None, :],
    )


def _additive(allowed: Tensor) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(torch.float32).min)
