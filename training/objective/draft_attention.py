"""Attention of noise rows on the keys and values that a clean pass left, for the training of draft adapters.

| query -> key     | allowed iff                                                                             |
|------------------|-----------------------------------------------------------------------------------------|
| noise -> clean   | the key is at the anchor of the query's group, or before it                             |
| noise -> noise   | same group; with causal noise attention the key is not after the query                  |

In addition, query and key must be in the same document. The keys of the clean tokens are those of the base, and have no
gradient. Source: Apple, arXiv 2507.11851; Uno, arXiv 2609.04010 (causal).

A transformers network calls `attend` by the name `DRAFTS` instead of its own attention. The first pass of a step, the
clean one, writes each layer's keys and values into a `CleanKeysValues`; the second reads them. On a CPU both passes are
computed by the pieces of a plan, without padding, elsewhere by SDPA with a dense mask.

Shape suffixes: B rows, L clean tokens, N noise rows, H heads, D head size; T, U clean tokens and noise rows of all
rows, without padding.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from nbdiff_engine.errors import SettingError
from nbdiff_engine.model.attention import PADDING, Tokens
from training.objective.attention_plan import AttentionPlan, Part, Span, batched
from training.objective.document_attention import document_attention
from training.objective.draft_noising import DraftBatch
from training.objective.noising import Packed

DRAFTS = "nbdiff_drafts"  # its name in transformers
NoiseAttention = Literal["bidirectional", "causal"]

_SHORT = 256  # a document of at most so many clean tokens and noise rows is one part, with a mask for all of it
_RUN = 128  # noise rows per part of a longer document
_ROUND = 32  # short documents share a piece if both their sizes, rounded up to a multiple of this, are equal


@dataclass(slots=True)
class CleanKeysValues:
    """Keys and values of the clean pass by attention layer, [1 or B, H, T or L, D] each. reading: in the noise pass."""

    kept: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    reading: bool = False


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    memory: CleanKeysValues | None = None,
    plan: AttentionPlan | None = None,
    **other,
) -> tuple[Tensor, None]:
    """Called by transformers. query: [1 or B, H, tokens, D]; key, value: the same with their own number of heads.

    Returns [1 or B, tokens, H, D]. Raises SettingError for a soft cap, a dropout with a plan, or a call without memory.
    """
    if memory is None or other.get("softcap") is not None or (plan is not None and dropout):
        raise SettingError(
            f"{DRAFTS} supports only the training of draft adapters, without soft caps, and on a CPU without dropout."
        )
    if memory.reading:
        clean_key, clean_value = memory.kept[module]
        key, value = torch.cat([clean_key, key], dim=2), torch.cat([clean_value, value], dim=2)
    else:
        memory.kept[module] = key, value
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out, _ = document_attention(query, key, value, *plan, scale)
    return out, None


AttentionInterface.register(DRAFTS, attend)


def clean_tokens(packed: Packed) -> Tokens:
    """The facts about clean tokens that a mask needs: each is a block of one token, so their attention is causal."""
    return Tokens(torch.zeros_like(packed.ids, dtype=torch.bool), packed.position, packed.position, packed.document)


def noise_mask(batch: DraftBatch, causal: bool) -> Tensor:
    """The dense mask of the noise rows: bool [B, 1, N, L + N]. Padding attends to itself."""
    packed, rows = batch.packed, batch.position.shape[1]
    query = (each[:, :, None] for each in (batch.document, batch.anchor, batch.position))
    document, anchor, position = (each[:, None, :] for each in (batch.document, batch.anchor, batch.position))
    clean = packed.document[:, None, :], packed.position[:, None, :]
    document_q, anchor_q, position_q = query
    to_clean = (document_q == clean[0]) & (clean[1] <= anchor_q) & (document_q != PADDING)
    to_noise = (document_q == document) & (anchor_q == anchor) & (document_q != PADDING)
    if causal:
        to_noise &= position <= position_q
    to_noise |= torch.eye(rows, dtype=torch.bool, device=to_noise.device)
    return torch.cat([to_clean, to_noise], dim=2)[:, None]


def noise_plan(batch: DraftBatch, causal: bool) -> AttentionPlan:
    """The plan of the noise rows of all rows. Queries are indices of the U noise rows; keys of the T clean tokens,
    then of the noise rows. The batch must have a noise row that is not padding.
    """
    clean = _Flat.of(batch.packed.document, batch.packed.position, None)
    noise = _Flat.of(batch.document, batch.position, batch.anchor)
    size = len(clean.document)
    anchors = noise.anchor.tolist()
    spans = clean.spans()
    short: dict[tuple[int, int], list[Part]] = {}
    runs = []
    for document, rows in noise.spans().items():
        context = spans[document]
        if len(context) + len(rows) <= _SHORT:
            part = Part(rows.places(), torch.cat([context.places(), size + rows.places()]))
            short.setdefault((-(-len(rows) // _ROUND), -(-len(context) // _ROUND)), []).append(part)
            continue
        step = max(1, _RUN // batch.group) * batch.group
        for first in range(rows.first, rows.last, step):
            last = min(first + step, rows.last)
            before, until = (context.first + anchors[at] + 1 for at in (first, last - 1))
            own = torch.cat([torch.arange(before, until), size + torch.arange(first, last)])
            runs.append([Part(torch.arange(first, last), own, Span(context.first, before))])

    document = torch.cat([clean.document, noise.document])
    position = torch.cat([clean.position, noise.position])
    anchor = torch.cat([torch.full_like(clean.position, -1), noise.anchor])

    def allowed(queries: Tensor, keys: Tensor) -> Tensor:
        q, k = queries.clamp(min=0)[:, :, None], keys.clamp(min=0)[:, None, :]
        same_group = anchor[k] == noise.anchor[q]
        if causal:
            same_group = same_group & (position[k] <= noise.position[q])
        seen = torch.where(k < size, position[k] <= noise.anchor[q], same_group)
        return seen & (document[k] == noise.document[q])

    return batched([*short.values(), *runs], allowed)


@dataclass(frozen=True, slots=True)
class _Flat:
    """Tokens of all rows without padding, [T] or [U]. document: a number that no two rows share."""

    document: Tensor
    position: Tensor
    anchor: Tensor | None

    @classmethod
    def of(cls, document: Tensor, position: Tensor, anchor: Tensor | None) -> "_Flat":
        there = document != PADDING
        # A row has fewer documents than 2^32, whatever the other half of the batch says.
        number = document + (torch.arange(len(document)) << 32)[:, None]
        return cls(number[there], position[there], None if anchor is None else anchor[there])

    def spans(self) -> dict[int, Span]:
        """The tokens of each document, which are consecutive."""
        numbers, counts = torch.unique_consecutive(self.document, return_counts=True)
        ends = counts.cumsum(0).tolist()
        return {
            number: Span(end - count, end)
            for number, count, end in zip(numbers.tolist(), counts.tolist(), ends, strict=True)
        }
