"""Noising: build the two halves `[x_t ; x]` of the parallel training pass from packed documents.

The clean half is the text. The noised half contains only the blocks of the answers, because prompt tokens are never
noised. As in decoding, the first block begins at the start of the answer. Each block has its own t ~ U(eps, 1] (NBDiff,
Eq. 1; the paper does not say that t is per block). The first token of a block is never masked, because decoding takes
it from the AR logits of the last committed token.

The last block of an answer is filled to full width with copies of its end token. Decoding denoises whole blocks and
does not know the length of the answer, so training must not reveal it. The fill is only in the noised half; it is not
in the clean half or the AR loss. The fill of an answer has at most the weight of the answer's own tokens: otherwise, in
a block of 32, an answer of two tokens would have 30 targets that are all EOS and one that is not.

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
    """Settings of the noising. With `shift` 0, the ablation without the token shift, the first token of a block is
    masked like the others."""

    block_size: int
    mask_token_id: int
    shift: int = 1
    eps: float = 1e-3
    at_least_one: bool = False  # mask at least one token of each block
    complementary: bool = False  # each row twice, with complementary masks (Fast-dLLM v2, arXiv 2509.26328)
    multiple: int = 1  # the length of the noised half is padded to a multiple of this
    ending_ids: frozenset[int] = frozenset()  # only answers that end in one of these get a filled last block


@dataclass(frozen=True, slots=True)
class Packed:
    """B rows of concatenated documents. Every tensor has shape [B, L]."""

    ids: Tensor
    position: Tensor  # from 0 in each document; also the RoPE position
    document: Tensor  # number of the document in its row; PADDING for padding
    start: Tensor  # position of the first token of the answer this token belongs to; -1 outside answers
    scored: Tensor  # bool: the token is a target of the AR loss

    def to(self, device: torch.device) -> "Packed":
        return Packed(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def rows(self, first: int, last: int) -> "Packed":
        """Rows first..last-1."""
        return Packed(*(getattr(self, name)[first:last] for name in self.__dataclass_fields__))

    def doubled(self) -> "Packed":
        """All rows, followed by all rows again."""
        return Packed(*(getattr(self, name).repeat(2, 1) for name in self.__dataclass_fields__))


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one training forward: N noised tokens per row, then L clean ones. N is 0 if nothing is noised."""

    ids: Tensor  # [B, N + L]
    tokens: Tokens  # [B, N + L] each
    mdm_targets: Tensor  # [B, N]: the target of the output at this position; IGNORED if it is not scored
    ar_targets: Tensor  # [B, L]
    target_count: int  # clean target tokens: both losses are divided by it
    mdm_weights: Tensor | None = None  # float32 [B, N]: the weight of each target of L_MDM; None: all are 1
    end_count: int = 0  # targets of L_MDM that end an answer, fill included

    def to(self, device: torch.device) -> "Batch":
        tokens = Tokens(*(getattr(self.tokens, name).to(device) for name in Tokens.__dataclass_fields__))
        ids, mdm, ar = (each.to(device) for each in (self.ids, self.mdm_targets, self.ar_targets))
        weights = None if self.mdm_weights is None else self.mdm_weights.to(device)
        return Batch(ids, tokens, mdm, ar, self.target_count, weights, self.end_count)


def noise(packed: Packed, how: Noising, generator: torch.Generator, context: str = "token_causal") -> Batch:
    """Divide answers into blocks, draw masks, and concatenate the two halves. `generator` is the only random source."""
    if how.complementary:
        packed = packed.doubled()
    block = torch.where(packed.start >= 0, blocks(packed.position, packed.start, how.block_size), packed.position)
    clean = Tokens(torch.zeros_like(block, dtype=torch.bool), packed.position, block, packed.document)
    ar_targets = _ar_targets(packed, block, context)
    if how.block_size == 1 and how.shift:  # every token is the first of its block, so none can be masked
        empty = torch.empty(len(block), 0, dtype=torch.long)
        return Batch(packed.ids, clean, empty, ar_targets, target_count(packed))
    noised, truth, weights = _answer_blocks(packed, how)
    masked = _draw_masks(noised, how, generator)
    ids = torch.where(masked, how.mask_token_id, truth)
    mdm_targets = _mdm_targets(noised, truth, masked, how.shift)
    if how.shift:  # as the targets
        weights = torch.cat([weights[:, 1:], torch.ones_like(weights[:, :1])], dim=1)
    ends = torch.isin(mdm_targets, torch.tensor(sorted(how.ending_ids), dtype=torch.long))
    return Batch(
        ids=torch.cat([ids, packed.ids], dim=1),
        tokens=Tokens.joined(noised, clean),
        mdm_targets=mdm_targets,
        ar_targets=ar_targets,
        target_count=target_count(packed),
        mdm_weights=None if bool((weights == 1).all()) else weights,
        end_count=int(ends.sum()),
    )


def _answer_blocks(packed: Packed, how: Noising) -> tuple[Tokens, Tensor, Tensor]:
    """The tokens of the noised half, [B, N] each, their true ids, and their weights.

    Shorter rows are padded; the document of padding is PADDING.
    """
    rows: list[dict[str, list[Tensor]]] = []
    for row in range(len(packed.ids)):
        parts: dict[str, list[Tensor]] = {name: [] for name in ("id", "position", "start", "document", "weight")}
        for first, last in answers_of(packed, row):
            start = int(packed.start[row, first])
            length = last - first
            ids = packed.ids[row, first:last]
            ended = int(ids[-1]) in how.ending_ids  # otherwise it was cut, and its next tokens are unknown
            width = -(-length // how.block_size) * how.block_size if ended else length
            parts["id"].append(torch.cat([ids, ids[-1:].expand(width - length)]))
            parts["position"].append(int(packed.position[row, first]) + torch.arange(width))
            parts["start"].append(torch.full((width,), start))
            parts["document"].append(packed.document[row, first].expand(width))
            fill = torch.full((width - length,), min(1.0, length / max(1, width - length)))
            parts["weight"].append(torch.cat([torch.ones(length), fill]))
        rows.append(parts)
    longest = max(sum(map(len, parts["id"])) for parts in rows)
    width = max(1, -(-longest // how.multiple)) * how.multiple

    def stacked(name: str, filler: float) -> Tensor:
        out = torch.full((len(rows), width), filler)
        for row, parts in enumerate(rows):
            if parts[name]:
                values = torch.cat(parts[name])
                out[row, : len(values)] = values
        return out

    position, document = stacked("position", 0), stacked("document", PADDING)
    block = blocks(position, stacked("start", 0), how.block_size)
    return Tokens(document != PADDING, position, block, document), stacked("id", 0), stacked("weight", 1.0)


def answers_of(packed: Packed, row: int) -> list[tuple[int, int]]:
    """Columns [first, last) of each answer of a row."""
    inside = packed.start[row] >= 0
    key = packed.document[row] * (packed.position.shape[1] + 1) + packed.start[row]
    border = torch.ones(len(key), dtype=torch.bool)
    border[1:] = (key[1:] != key[:-1]) | (inside[1:] != inside[:-1])
    edges = [*border.nonzero()[:, 0].tolist(), len(key)]
    return [(first, last) for first, last in pairwise(edges) if inside[first]]


def _draw_masks(noised: Tokens, how: Noising, generator: torch.Generator) -> Tensor:
    """The masked tokens, bool [B, N]. With `complementary`, the second half of the rows is the complement."""
    rows, width = noised.position.shape
    copies = 2 if how.complementary else 1
    fresh = rows // copies
    # One t for each block. The first token of each block is found by comparing neighbours.
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
        # The token with the lowest draw is masked first as t grows.
        lowest = torch.full((fresh, width), torch.inf).scatter_reduce(
            1, number, draw.masked_fill(~can, torch.inf), "amin"
        )
        masked |= can & (draw == lowest.gather(1, number))
    return torch.cat([masked, can & ~masked]) if how.complementary else masked


def _mdm_targets(noised: Tokens, truth: Tensor, masked: Tensor, shift: int) -> Tensor:
    """The masked tokens, each at the position whose output predicts it: `shift` positions earlier."""
    targets = torch.where(masked, truth, IGNORED)
    if shift:
        # The first token of a block is never masked, so no target moves into the previous block.
        targets = torch.cat([targets[:, 1:], torch.full_like(targets[:, :1], IGNORED)], dim=1)
    return targets


def _ar_targets(packed: Packed, block: Tensor, context: str) -> Tensor:
    """Next-token targets [B, L] of the scored tokens, each at the position before its own.

    In a block-causal context a token attends to its whole block, which contains its target unless the target is the
    first token of the next block. Only those targets remain.
    """
    follows = (packed.document[:, 1:] == packed.document[:, :-1]) & packed.scored[:, 1:]
    if context == "block_causal":
        follows &= block[:, 1:] == packed.position[:, 1:]
    targets = torch.where(follows, packed.ids[:, 1:], IGNORED)
    return torch.cat([targets, torch.full_like(targets[:, :1], IGNORED)], dim=1)


def target_count(packed: Packed) -> int:
    """The number of scored tokens that have a token before them in their document."""
    return int(((packed.document[:, 1:] == packed.document[:, :-1]) & packed.scored[:, 1:]).sum())
