"""Noise rows for draft adapters: groups of rows after anchors in the answers of packed documents.

A group follows an anchor, a clean token at position s: the prompt's last token, or a token of the answer. It has
`block_size - 1` rows at positions s+1 to s+block_size-1, as a draft pass has (nbdiff_engine.model.draft_spec). The row
at s+k predicts the token at s+k+1 (token shift); the token at s+1 comes from the clean row of the anchor.

Anchors repeat every `block_size - 1` tokens from a random offset, so that every token of an answer is predicted about
equally often at each distance. The prompt's last token is always an anchor, as in decoding. A group has all its rows
even if the answer ends earlier, because decoding does not know the length of the answer.

Shape suffixes: B rows, L clean tokens, N noise rows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nbdiff_engine.model.attention import PADDING
from training.objective.noising import IGNORED, Packed, answers_of


@dataclass(frozen=True, slots=True)
class DraftNoising:
    """Settings of the noise rows. all_noise: the share of groups in which every row is noise, which is how a draft
    pass begins; in each of the others, a row is noise with the group's own probability t ~ U(eps, 1]."""

    block_size: int  # at least 2
    noise_high: int | None = None  # uniform noise is drawn from 1..noise_high-1; None: MASK
    all_noise: float = 1.0
    groups: int = 1  # different offsets of the anchors per clean pass, at most block_size - 1
    decay: float | None = None  # gamma, in tokens: the row at s+k has the weight exp(-(k-1) / gamma); None: 1
    eps: float = 1e-3

    def for_evaluation(self) -> "DraftNoising":
        """One group of noise at each token that could begin one, at one offset, with equal weights."""
        return replace(self, all_noise=1.0, groups=1, decay=None)


@dataclass(frozen=True, slots=True)
class DraftBatch:
    """The input of one training step: the clean rows, and [B, N] each for the noise rows.

    The rows of a group are consecutive, and groups are in the order of their anchors.
    """

    packed: Packed
    ids: Tensor  # the token that a row reads; of no meaning where it reads MASK
    mask: Tensor  # bool: the row reads MASK
    position: Tensor
    anchor: Tensor  # position of the group's anchor
    document: Tensor  # number of the document in its row; PADDING for padding
    column: Tensor  # column of the clean token at the row's position, whose output predicts the same target; 0 if none
    targets: Tensor  # the target of the output of a row; IGNORED if it is not scored
    weight: Tensor  # float32, of the target's loss; 0 if it is not scored
    group: int  # rows of a group
    target_count: float  # sum of the weights: the losses are divided by it

    def to(self, device: torch.device) -> "DraftBatch":
        moved = {name: getattr(self, name).to(device) for name in ("packed", *_Answer.__dataclass_fields__)}
        return replace(self, **moved)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The noise rows of one answer, [rows] each."""

    ids: Tensor
    mask: Tensor
    position: Tensor
    anchor: Tensor
    document: Tensor
    column: Tensor
    targets: Tensor
    weight: Tensor


_PADDING = {"document": PADDING, "targets": IGNORED, "weight": 0.0}  # of a row without a token; 0 for all others


def draft_noise(packed: Packed, how: DraftNoising, generator: torch.Generator) -> DraftBatch:
    """Place groups in the answers of packed rows, and draw their noise. `generator` is the only random source."""
    rows = [
        [_answer(packed, row, span, how, generator) for span in answers_of(packed, row)]
        for row in range(len(packed.ids))
    ]
    width = max(1, *(sum(len(each.ids) for each in answers) for answers in rows))

    def stacked(name: str) -> Tensor:
        dtype = {"mask": torch.bool, "weight": torch.float32}.get(name, torch.int64)
        out = torch.full((len(rows), width), _PADDING.get(name, 0), dtype=dtype)
        for row, answers in enumerate(rows):
            if answers:
                values = torch.cat([getattr(each, name) for each in answers])
                out[row, : len(values)] = values
        return out

    fields = {name: stacked(name) for name in _Answer.__dataclass_fields__}
    count = float(fields["weight"].sum(dtype=torch.float64))
    return DraftBatch(packed, **fields, group=how.block_size - 1, target_count=count)


def _answer(packed: Packed, row: int, span: tuple[int, int], how: DraftNoising, generator: torch.Generator) -> _Answer:
    """The noise rows of the answer in the columns [first, last) of a row."""
    first, last = span
    begin = int(packed.position[row, first])
    end = begin + last - first  # position after the answer
    anchors = _anchors(max(begin - 1, 0), end, how, generator)
    offset = torch.arange(1, how.block_size)
    position = anchors[:, None] + offset
    noise = _noise(position, end, how, generator)
    # The target of the last row is outside its group, so it is always unknown; the others are if they are noise.
    unknown = torch.cat([noise[:, 1:], torch.ones_like(noise[:, :1])], dim=1)
    scored = unknown & (position + 1 < end)
    column = torch.where(position < end, position - begin + first, 0)
    target_column = torch.where(scored, column + 1, 0)
    ids = packed.ids[row][column]
    if how.noise_high is not None:
        drawn = torch.randint(1, how.noise_high, position.shape, generator=generator)
        ids = torch.where(noise, drawn, ids)
    weight = torch.ones(position.shape) if how.decay is None else torch.exp(-(offset - 1) / how.decay).expand_as(noise)
    return _Answer(
        ids=ids.flatten(),
        mask=(noise & (how.noise_high is None)).flatten(),
        position=position.flatten(),
        anchor=anchors[:, None].expand_as(position).flatten(),
        document=packed.document[row, first].expand(position.numel()),
        column=column.flatten(),
        targets=torch.where(scored, packed.ids[row][target_column], IGNORED).flatten(),
        weight=torch.where(scored, weight, 0.0).flatten(),
    )


def _anchors(first: int, end: int, how: DraftNoising, generator: torch.Generator) -> Tensor:
    """Positions of the anchors, in order. first: of the first possible one. The token after the next must exist."""
    possible = torch.arange(first, max(first, end - 2))
    stride = how.block_size - 1
    offsets = torch.randperm(stride, generator=generator)[: how.groups]
    chosen = torch.isin((possible - first) % stride, offsets)
    chosen[:1] = True
    return possible[chosen]


def _noise(position: Tensor, end: int, how: DraftNoising, generator: torch.Generator) -> Tensor:
    """Which rows [groups, rows] are noise. After the answer there is nothing else."""
    groups = len(position)
    whole = torch.rand(groups, 1, generator=generator) < how.all_noise
    t_group = how.eps + (1 - how.eps) * torch.rand(groups, 1, generator=generator)
    drawn = torch.rand(position.shape, generator=generator) < t_group
    return whole | drawn | (position >= end)
