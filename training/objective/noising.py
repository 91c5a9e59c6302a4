"""Noising: from packed documents to the two halves `[x_t ; x]` of the parallel training pass.

The clean half is the text. The noised half holds the blocks of the answers and nothing else: what stands before an
answer is never a noised query, so it would only cost time. Blocks are laid as decoding lays them, from the start
of each answer, and each is noised at its own t ~ U(eps, 1] (NBDiff, Eq. 1; one t a block is our reading). The first
token of a block is never masked, since decoding takes it from the AR logits of the last committed token.

The last block of an answer is filled to full width with the token that ends it. Decoding looks at whole blocks
and cannot know where an answer will end, so training must not know it either. The fill exists in the noised half
alone; the clean half and the AR loss never see it.

Shape suffixes: B rows, L clean tokens, N noised tokens.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from nbdiff_engine.model.attention import PADDING, Tokens, blocks

IGNORED = -100  # the target of a position that no loss scores


@dataclass(frozen=True, slots=True)
class Noising:
    """How answers are noised. `shift` 0 is the ablation without the token shift: the first token of a block is
    then masked like the rest."""

    block_size: int
    mask_token_id: int
    shift: int = 1
    eps: float = 1e-3
    at_least_one: bool = False  # mask at least one token of each block
    complementary: bool = False  # each row twice, masked where the other is not (Fast-dLLM v2, arXiv 2509.26328)
    multiple: int = 1  # the noised half is filled up with padding to a multiple of this
    ending_ids: frozenset[int] = frozenset()  # answers that end in one of these fill their last block with it


@dataclass(frozen=True, slots=True)
class Packed:
    """B rows of documents laid end to end. Every tensor has shape [B, L]."""

    ids: Tensor
    position: Tensor  # from 0 in each document; RoPE's, too
    document: Tensor  # number of the document in its row; PADDING where there is no token
    start: Tensor  # position of the first token of the answer this token belongs to; -1 outside answers
    scored: Tensor  # bool: the token is a target of the AR loss

    def to(self, device: torch.device) -> "Packed":
        return Packed(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def rows(self, first: int, last: int) -> "Packed":
        """Rows first..last-1."""
        return Packed(*(getattr(self, name)[first:last] for name in self.__dataclass_fields__))

    def doubled(self) -> "Packed":
        """Every row, and then every row again."""
        return Packed(*(getattr(self, name).repeat(2, 1) for name in self.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward of the training pass: N noised tokens a row, then L clean ones. N is 0 where nothing is noised."""

    ids: Tensor  # [B, N + L]
    tokens: Tokens  # [B, N + L] each
    mdm_targets: Tensor  # [B, N]: what the output at this place is to be, IGNORED where it is not scored
    ar_targets: Tensor  # [B, L]
    target_count: int  # clean target tokens: the one normaliser that both losses share

    def to(self, device: torch.device) -> "Batch":
        tokens = Tokens(*(getattr(self.tokens, name).to(device) for name in Tokens.__dataclass_fields__))
        ids, mdm, ar = (each.to(device) for each in (self.ids, self.mdm_targets, self.ar_targets))
        return Batch(ids, tokens, mdm, ar, self.target_count)


def noise(packed: Packed, how: Noising, generator: torch.Generator, context: str = "token_causal") -> Batch:
    """Lay blocks, draw masks, and join the two halves. All randomness comes from `generator`."""
    if how.complementary:
        packed = packed.doubled()
    block = torch.where(packed.start >= 0, blocks(packed.position, packed.start, how.block_size), packed.position)
    clean = Tokens(torch.zeros_like(block, dtype=torch.bool), packed.position, block, packed.document)
    ar_targets = _ar_targets(packed, block, context)
    if how.block_size == 1 and how.shift:  # every token opens its block: no mask could be drawn
        empty = torch.empty(len(block), 0, dtype=torch.long)
        return Batch(packed.ids, clean, empty, ar_targets, _target_count(packed))
    noised, truth = _answer_blocks(packed, how)
    masked = _draw_masks(noised, how, generator)
    ids = torch.where(masked, how.mask_token_id, truth)
    return Batch(
        ids=torch.cat([ids, packed.ids], dim=1),
        tokens=Tokens.joined(noised, clean),
        mdm_targets=_mdm_targets(noised, truth, masked, how.shift),
        ar_targets=ar_targets,
        target_count=_target_count(packed),
    )


def _answer_blocks(packed: Packed, how: Noising) -> tuple[Tokens, Tensor]:
    """The tokens of the noised half, [B, N] each, and their true ids.

    Rows differ in how many there are; a shorter one is filled up with tokens of no document.
    """
    rows: list[dict[str, list[Tensor]]] = []
    for row in range(len(packed.ids)):
        parts: dict[str, list[Tensor]] = {name: [] for name in ("id", "position", "start", "document")}
        for first, last in _answers(packed, row):
            start = int(packed.start[row, first])
            length = last - first
            ids = packed.ids[row, first:last]
            ended = int(ids[-1]) in how.ending_ids  # else it was cut, and nobody knows how it goes on
            width = -(-length // how.block_size) * how.block_size if ended else length
            parts["id"].append(torch.cat([ids, ids[-1:].expand(width - length)]))
            parts["position"].append(int(packed.position[row, first]) + torch.arange(width))
            parts["start"].append(torch.full((width,), start))
            parts["document"].append(packed.document[row, first].expand(width))
        rows.append(parts)
    longest = max(sum(map(len, parts["id"])) for parts in rows)
    width = max(1, -(-longest // how.multiple)) * how.multiple

    def stacked(name: str, filler: int) -> Tensor:
        out = torch.full((len(rows), width), filler)
        for row, parts in enumerate(rows):
            if parts[name]:
                values = torch.cat(parts[name])
                out[row, : len(values)] = values
        return out

    position, document = stacked("position", 0), stacked("document", PADDING)
    block = blocks(position, stacked("start", 0), how.block_size)
    return Tokens(document != PADDING, position, block, document), stacked("id", 0)


def _answers(packed: Packed, row: int) -> list[tuple[int, int]]:
    """Columns [first, last) of each answer of a row."""
    inside = packed.start[row] >= 0
    key = packed.document[row] * (packed.position.shape[1] + 1) + packed.start[row]
    border = torch.ones(len(key), dtype=torch.bool)
    border[1:] = (key[1:] != key[:-1]) | (inside[1:] != inside[:-1])
    edges = [*border.nonzero()[:, 0].tolist(), len(key)]
    return [(first, last) for first, last in pairwise(edges) if inside[first]]


def _draw_masks(noised: Tokens, how: Noising, generator: torch.Generator) -> Tensor:
    """Which noised tokens are masked, bool [B, N]. With `complementary` the lower half mirrors the upper."""
    rows, width = noised.position.shape
    copies = 2 if how.complementary else 1
    fresh = rows // copies
    # One t for each block: a block is told from its neighbours by where it begins, once a row.
    first = torch.ones(fresh, width, dtype=torch.bool)
    same = (noised.block[:fresh, 1:] == noised.block[:fresh, :-1]) & (
        noised.document[:fresh, 1:] == noised.document[:fresh, :-1]
    )
    first[:, 1:] = ~same
    number = first.long().cumsum(dim=1) - 1
    t_block = how.eps + (1 - how.eps) * torch.rand(fresh, width, generator=generator)
    draw = torch.rand(fresh, width, generator=generator)
    can = noised.noised[:fresh] & ((noised.position[:fresh] != noised.block[:fresh]) | (how.shift == 0))
    masked = can & (draw < t_block.gather(1, number))
    if how.at_least_one:
        # The token of the lowest draw would be the first to be masked at any t.
        lowest = torch.full((fresh, width), torch.inf).scatter_reduce(
            1, number, draw.masked_fill(~can, torch.inf), "amin"
        )
        masked |= can & (draw == lowest.gather(1, number))
    return torch.cat([masked, can & ~masked]) if how.complementary else masked


def _mdm_targets(noised: Tokens, truth: Tensor, masked: Tensor, shift: int) -> Tensor:
    """The masked tokens, each at the place whose output predicts it: `shift` places before its own."""
    targets = torch.where(masked, truth, IGNORED)
    if shift:
        # The first token of a block is never masked, so no target crosses into the block before.
        targets = torch.cat([targets[:, 1:], torch.full_like(targets[:, :1], IGNORED)], dim=1)
    return targets


def _ar_targets(packed: Packed, block: Tensor, context: str) -> Tensor:
    """Next-token targets [B, L] of the scored tokens, each at the place before its own.

    In a block-causal context a token sees its whole block, the token it is to predict included, unless that
    one opens the next block; only such targets are left there.
    """
    follows = (packed.document[:, 1:] == packed.document[:, :-1]) & packed.scored[:, 1:]
    if context == "block_causal":
        follows &= block[:, 1:] == packed.position[:, 1:]
    targets = torch.where(follows, packed.ids[:, 1:], IGNORED)
    return torch.cat([targets, torch.full_like(targets[:, :1], IGNORED)], dim=1)


def _target_count(packed: Packed) -> int:
    """Scored tokens that have a token before them, whichever of the two losses scores them."""
    return int(((packed.document[:, 1:] == packed.document[:, :-1]) & packed.scored[:, 1:]).sum())
