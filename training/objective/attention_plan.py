"""Which queries meet which keys: the training pass's attention cut into small pieces that hold every allowed pair.

The mask of `[noised ; clean]` is nearly empty: documents never see each other, a clean token sees no noised one, and a
noised token sees the clean ones before its block and its own block. So tokens are laid end to end without padding, and
attention is worked out piece by piece:

| piece                                     | queries                     | keys                                       |
|-------------------------------------------|-----------------------------|--------------------------------------------|
| a short document, many of them at once    | all its tokens              | all its tokens, masked                     |
| a run of clean tokens of a long document  | `_RUN` of them              | all before it, and the run itself, masked  |
| a run of noised tokens of a long document | `_RUN` of them              | the clean ones before its first block, and |
|                                           |                             | what lies in the run's blocks, masked      |

Every query is in one piece. The keys before a run need no mask, so what masks take grows with the length, not with
its square. `nbdiff_engine.model.attention.may_attend` decides inside the masked parts, as it does for a dense mask.

Shape suffixes: B rows, S noised + clean tokens of a row, T tokens that are there, of all rows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nbdiff_engine.model.attention import PADDING, Context, Tokens, may_attend

_SHORT = 256  # noised and clean tokens of a document that is taken whole
_RUN = 256  # queries of a piece of a longer one
_ROUND = 16  # short documents go together with others of about their size


class AttentionPlan(NamedTuple):
    """Pieces as tensors, so that a compiled network takes another plan every step without being compiled again."""

    pieces: Tensor  # int64 [pieces, 8]: see `Piece`
    index: Tensor  # int64: places of queries and keys, a piece after the other; -1 fills up
    masks: Tensor  # float32: what is added to the scores, a piece after the other


class Piece(NamedTuple):
    """One row of `AttentionPlan.pieces`: G documents or runs of one size, Q queries and K masked keys each."""

    number: int  # G
    queries: int  # Q
    keys: int  # K
    query_at: int  # where in the index its [G, Q] begin
    key_at: int  # and its [G, K]
    mask_at: int  # where in the masks its [G, Q, K] begin
    before: int  # keys before..before_end-1 are seen by all of its queries
    before_end: int


@dataclass(frozen=True, slots=True)
class Span:
    """Places first..last-1 of the T tokens."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def places(self) -> Tensor:
        return torch.arange(self.first, self.last)


_NONE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class _Part:
    """A document, or a run of one, before it is laid beside others."""

    queries: Tensor
    keys: Tensor
    before: Span = _NONE


def pairs(clean: int, noised: int, block_size: int) -> tuple[int, int]:
    """Pairs of query and key that a row is worked out for if it holds one document, and how many are in masks.

    Rows of several documents have fewer.
    """
    if clean + noised <= _SHORT:
        whole = (clean + noised) ** 2
        return whole, whole
    run = min(_RUN, clean)
    masked = clean * run + noised * (run + min(_RUN + 2 * block_size, noised))
    return (clean + noised) * clean // 2 + masked, masked


def present(tokens: Tokens) -> Tensor:
    """Bool [B, S]: the places that hold a token. The first of all counts as one where there is none."""
    there = tokens.document != PADDING
    if not there.any():
        there[0, 0] = True
    return there


def plan_of(tokens: Tokens, there: Tensor, context: Context, open_future: Tensor | None = None) -> AttentionPlan:
    """The plan of the tokens that are `there`, laid end to end row by row.

    tokens: [B, S], each document's noised tokens in one run and its clean ones in another, blocks in their order, as
        `noising.noise` lays them. open_future: bool [B, S], see `objective.Objective.forward`.
    """
    rows = torch.arange(there.shape[0])[:, None] * (int(tokens.document.max()) + 2)
    flat = Tokens(
        noised=tokens.noised[there],
        position=tokens.position[there],
        block=tokens.block[there],
        document=torch.where(tokens.document == PADDING, PADDING, tokens.document + rows)[there],
    )
    opened = None if open_future is None else open_future[there]
    short: dict[int, list[_Part]] = {}
    pieces = []
    for noised, clean in _documents(flat):
        size = len(noised) + len(clean)
        if size <= _SHORT:
            places = torch.cat([noised.places(), clean.places()])
            short.setdefault(-(-size // _ROUND), []).append(_Part(places, places))
        else:
            pieces += [[part] for part in _clean_runs(flat, clean, context)]
            pieces += [[part] for part in _noised_runs(flat, noised, clean)]
    return _laid([*short.values(), *pieces], flat, context, opened)


def _documents(flat: Tokens) -> list[tuple[Span, Span]]:
    """The noised and the clean tokens of each document."""
    border = torch.ones(len(flat.document), dtype=torch.bool)
    border[1:] = (flat.document[1:] != flat.document[:-1]) | (flat.noised[1:] != flat.noised[:-1])
    first = border.nonzero()[:, 0]
    edges = [*first.tolist(), len(border)]
    found: dict[int, list[Span]] = {}
    facts = zip(flat.document[first].tolist(), flat.noised[first].tolist(), strict=True)
    for at, (document, noised) in enumerate(facts):
        halves = found.setdefault(document, [_NONE, _NONE])
        halves[0 if noised else 1] = Span(edges[at], edges[at + 1])
    return [(noised, clean) for noised, clean in found.values()]


def _clean_runs(flat: Tokens, clean: Span, context: Context) -> list[_Part]:
    parts, blocks = [], flat.block[clean.first : clean.last]
    for first in range(clean.first, clean.last, _RUN):
        last = min(first + _RUN, clean.last)
        end = last
        if context == "block_causal":  # the last token sees its block to the end
            end = clean.first + int(torch.searchsorted(blocks, blocks[last - 1 - clean.first], right=True))
        parts.append(_Part(torch.arange(first, last), torch.arange(first, end), Span(clean.first, first)))
    return parts


def _noised_runs(flat: Tokens, noised: Span, clean: Span) -> list[_Part]:
    parts = []
    clean_blocks = flat.block[clean.first : clean.last].contiguous()
    noised_blocks = flat.block[noised.first : noised.last].contiguous()
    for first in range(noised.first, noised.last, _RUN):
        last = min(first + _RUN, noised.last)
        ends = flat.block[[first, last - 1]]
        # Clean blocks before the run's first, and before its last; noised tokens from its first block to its last.
        before, until = (clean.first + torch.searchsorted(clean_blocks, ends)).tolist()
        start = noised.first + int(torch.searchsorted(noised_blocks, ends[0]))
        stop = noised.first + int(torch.searchsorted(noised_blocks, ends[1], right=True))
        keys = torch.cat([torch.arange(start, stop), torch.arange(before, until)])
        parts.append(_Part(torch.arange(first, last), keys, Span(clean.first, before)))
    return parts


def _laid(groups: list[list[_Part]], flat: Tokens, context: Context, opened: Tensor | None) -> AttentionPlan:
    pieces, index, masks = [], [], []
    placed = masked = 0
    for parts in groups:
        queries, keys = _filled([part.queries for part in parts]), _filled([part.keys for part in parts])
        mask = _mask(queries, keys, flat, context, opened)
        number, before = len(parts), parts[0].before
        at = placed, placed + queries.numel(), masked
        pieces.append(Piece(number, queries.shape[1], keys.shape[1], *at, before.first, before.last))
        index += [queries.flatten(), keys.flatten()]
        masks.append(mask.flatten())
        placed += queries.numel() + keys.numel()
        masked += mask.numel()
    return AttentionPlan(torch.tensor(pieces), torch.cat(index), torch.cat(masks))


def _filled(places: list[Tensor]) -> Tensor:
    """Runs of places as one tensor, the shorter ones filled up with -1."""
    return torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)


def _mask(queries: Tensor, keys: Tensor, flat: Tokens, context: Context, opened: Tensor | None) -> Tensor:
    """What is added to the scores of queries [G, Q] and keys [G, K]: float32 [G, Q, K]."""
    q, k = queries.clamp(min=0), keys.clamp(min=0)
    names = ("noised", "position", "block", "document")
    allowed = may_attend(
        *(getattr(flat, name)[q][:, :, None] for name in names),
        *(getattr(flat, name)[k][:, None, :] for name in names),
        context,
        None if opened is None else opened[k][:, None, :],
    )
    # As in the dense mask, a token that sees nobody sees itself.
    allowed |= queries[:, :, None] == keys[:, None, :]
    allowed &= (keys >= 0)[:, None, :]
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape).masked_fill_(~allowed, lowest)
