"""Session: one batch of rows being decoded over a KV cache, by prefill, denoise, commit and rollback.

Every forward of every strategy is one `Pass` per row. A pass gives the tokens and their positions, whether they are
noised or clean, and the tokens whose logits are wanted. A denoise pass is noised: it is bidirectional inside its
block and does not change the cache. Prefill and commit passes are clean: the cache keeps their tokens. Rows may be at
different positions and in different phases: one row can denoise while another commits in the same forward.

Shape suffixes: B rows, Q queries, K keys, N wanted positions over all rows, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from nbdiff_engine.model.attention import PADDING, Tokens, dense_mask
from nbdiff_engine.model.kv_cache import KVCache
from nbdiff_engine.model.passes import Pass, shared_forwards
from nbdiff_engine.model.spec import DiffusionSpec


class Network(Protocol):
    """What a session needs of its model; `BlockModel` describes each of them."""

    spec: DiffusionSpec | None
    device: torch.device
    window: int | None

    def hidden(
        self, ids_BQ: Tensor, mask: Tensor | None, position_BQ: Tensor, cache: Cache, keys: int, near: Tensor | None
    ) -> Tensor: ...

    def logits(self, hidden_ND: Tensor) -> Tensor: ...

    def position_offset(self, length: int) -> int: ...


class Session:
    """One batch of rows being decoded: the network and the rows' committed context."""

    def __init__(self, model: Network, cache: KVCache, row_lengths: Sequence[int]):
        """row_lengths: the length that each row can reach; decides which RoPE frequencies a row has (`rope`)."""
        self.model = model
        self.cache = cache
        self.context = model.spec.context if model.spec else "token_causal"
        self._offsets = [model.position_offset(length) for length in row_lengths]

    @property
    def lengths(self) -> list[int]:
        """Committed tokens of each row."""
        return list(self.cache.lengths)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts of any lengths, causally. Logits [B, V] of the token that follows each."""
        chunks = [Pass.prefill(prompt) for prompt in prompts]
        following: dict[int, Tensor] = {}
        for number in range(max(map(len, chunks))):
            passes = [
                own[number] if number < len(own) else Pass.nothing(len(prompt))
                for own, prompt in zip(chunks, prompts, strict=True)
            ]
            ended = [row for row, each in enumerate(passes) if each.wanted]
            following.update(zip(ended, self.run(passes), strict=True))
        return torch.stack([following[row] for row in range(len(prompts))])

    def denoise(self, blocks: Sequence[Sequence[int]]) -> Tensor:
        """Run blocks of one length b bidirectionally over the context. Logits [B, b, V] in the network's order:
        under a token shift, entry i predicts the block's token i+1."""
        wanted = range(len(blocks[0]))
        logits = self.run(
            [Pass.denoise(block, start, wanted) for block, start in zip(blocks, self.lengths, strict=True)]
        )
        return logits.view(len(blocks), len(wanted), -1)

    def commit(self, blocks: Sequence[Sequence[int]]) -> Tensor:
        """Read finished blocks of one length b and keep them. Logits [B, b, V]."""
        wanted = range(len(blocks[0]))
        logits = self.run(
            [Pass.commit(block, start, wanted) for block, start in zip(blocks, self.lengths, strict=True)]
        )
        return logits.view(len(blocks), len(wanted), -1)

    def rollback(self, lengths: Sequence[int]) -> None:
        """Drop each row's committed tokens at positions from `lengths` on."""
        self.cache.lengths = [min(old, new) for old, new in zip(self.cache.lengths, lengths, strict=True)]

    def select(self, rows: list[int]) -> None:
        """Keep only these rows; the others are finished."""
        self.cache.select(rows)
        self._offsets = [self._offsets[row] for row in rows]

    @torch.inference_mode()
    def run(self, passes: Sequence[Pass]) -> Tensor:
        """One pass a row. Float32 logits [N, V] of the wanted positions, row by row.

        All rows share one forward, unless one of them reads many more tokens than another (`shared_forwards`).
        """
        runs = [range(len(passes))]
        if self.cache.divisible:
            runs = shared_forwards([len(each.tokens) for each in passes])
        hidden = [each for rows in runs for each in self._forward(passes[rows.start : rows.stop], rows)]
        return self.model.logits(hidden[0] if len(hidden) == 1 else torch.cat(hidden))

    def _forward(self, passes: Sequence[Pass], rows: range) -> list[Tensor]:
        """Per row, the hidden states [n, D] of its wanted positions. rows: which rows of the session these are."""
        width = max(len(each.tokens) for each in passes)
        starts = [each.start for each in passes]
        lengths = self.cache.lengths[rows.start : rows.stop]
        assert all(start <= length for start, length in zip(starts, lengths)), "a gap in the context"
        key_position, key_present = self.cache.prepare(starts, width, rows)
        aligned = self._aligned(passes, width, key_position)
        if aligned is None:
            query, position_ids = self._queries(passes, width)
            mask = dense_mask(query, self._keys(query, key_position, key_present), self.context)
        else:
            mask, position_ids = aligned
        window = self.model.window
        near = None
        if window is not None and key_position.shape[1] > window:
            distance = position_ids[:, None, :, None] - key_position[:, None, None, :]
            near = distance < window if mask is None else mask & (distance < window)
        offsets = self._offsets[rows.start : rows.stop]
        if any(offsets):
            position_ids = position_ids + torch.tensor(offsets, device=self.model.device)[:, None]
        ids = [[*each.tokens, *[0] * (width - len(each.tokens))] for each in passes]
        hidden_BQD = self.model.hidden(
            torch.tensor(ids, device=self.model.device),
            mask,
            position_ids,
            self.cache.network_cache,
            key_position.shape[1],
            near,
        )
        self.cache.keep([0 if each.noised else len(each.tokens) for each in passes], rows)
        return [
            hidden_BQD[row] if len(each.wanted) == width else hidden_BQD[row, list(each.wanted)]
            for row, each in enumerate(passes)
        ]

    def _aligned(self, passes: Sequence[Pass], width: int, key_position: Tensor) -> tuple[Tensor | None, Tensor] | None:
        """The mask [1, 1, Q, K] (None: every query sees every key) and the RoPE positions [1, Q], for rows that run the
        same kind of pass at the same positions, as a single row always does. None for other rows.

        The predicate is short in this case: a noised block sees all tokens, and a causal token sees itself and all
        earlier ones. To evaluate it for every pair of tokens would take a fifth of a small model's forward.
        """
        noised = passes[0].noised
        if not self.cache.aligned or any(len(each.tokens) != width or each.noised != noised for each in passes):
            return None
        position_ids = key_position[:, -width:]
        if noised and all(each.block_size >= width for each in passes):
            return None, position_ids
        if noised or self.context != "token_causal":
            return None
        if width == 1:
            return None, position_ids
        return (key_position <= position_ids[0, :, None])[None, None], position_ids

    def _queries(self, passes: Sequence[Pass], width: int) -> tuple[Tokens, Tensor]:
        """The tokens of this forward and their RoPE positions, each [B, Q].

        A row with fewer than `width` tokens is padded with clean tokens after its own. A padding token sees at least
        itself, so no softmax is empty. No other token sees it, the cache does not keep it, and it gets no new position.
        """
        facts = [(each.start, len(each.tokens), each.block_size, each.noised) for each in passes]
        start, count, block_size, noised = torch.tensor(facts, device=self.model.device).unsqueeze(2).unbind(1)
        index = torch.arange(width, device=self.model.device)[None]
        position, real = start + index, index < count
        query = Tokens(
            noised=real & noised.bool(),
            position=position,
            block=torch.where(real, position - index % block_size, position),
            document=torch.zeros_like(start),
        )
        return query, torch.minimum(position, (start + count - 1).clamp(min=0))

    def _keys(self, query: Tokens, position: Tensor, present: Tensor) -> Tokens:
        """The tokens of the cache's K keys. Committed tokens are clean and in earlier blocks than this forward's
        tokens; the keys that this forward writes belong to the tokens of its queries."""
        rows, width = query.position.shape
        offset = position - query.position[:, :1]
        fresh = present & (offset >= 0)
        index = offset.clamp(0, width - 1).expand(rows, -1)
        return Tokens(
            noised=fresh & query.noised.gather(1, index),
            position=position,
            block=torch.where(fresh, query.block.gather(1, index), position),
            document=torch.where(present, 0, PADDING),
        )
