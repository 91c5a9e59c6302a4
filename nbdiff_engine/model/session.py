"""Session: one batch of rows being decoded over a KV cache, by prefill, denoise, commit and rollback.

Every forward of every strategy is one `Pass` per row. A pass gives the tokens and their positions, whether they are
noised or clean, and the tokens whose logits are wanted. A denoise pass is noised: it is bidirectional inside its
block and does not change the cache. Prefill and commit passes are clean: the cache keeps their tokens. A mixed pass has
clean tokens, and groups of noise rows or single candidates after them. Rows may be at different positions and in
different phases: one row can denoise while another commits in the same forward.

With a draft adapter, the noise rows of a forward go through base and LoRA, and all others through the base alone. The
first token of a denoise pass is then a clean row (`draft_spec`).

Shape suffixes: B rows, Q queries, K keys, N wanted positions over all rows, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from nbdiff_engine.model.attention import PADDING, Tokens, dense_mask
from nbdiff_engine.model.draft_adapter import DraftAdapter, NoiseRows
from nbdiff_engine.model.kv_cache import KVCache, RowContext
from nbdiff_engine.model.passes import Pass, shared_forwards
from nbdiff_engine.model.spec import DiffusionSpec


class SessionModel(Protocol):
    """What a session needs of its model; `BlockModel` describes each of them."""

    spec: DiffusionSpec | None
    draft: DraftAdapter | None
    device: torch.device
    window: int | None

    def hidden(
        self,
        ids_BQ: Tensor,
        mask: Tensor | None,
        position_BQ: Tensor,
        cache: Cache,
        keys: int,
        near: Tensor | None,
        noise: NoiseRows | None,
    ) -> Tensor: ...

    def logits(self, hidden_ND: Tensor) -> Tensor: ...

    def position_offset(self, length: int) -> int: ...


class Session:
    """One batch of rows being decoded: the network and the rows' committed context."""

    def __init__(self, model: SessionModel, cache: KVCache, row_lengths: Sequence[int]):
        """row_lengths: the length that each row can reach; decides which RoPE frequencies a row has (`rope`)."""
        self.model = model
        self.cache = cache
        self.context = model.spec.context if model.spec else "token_causal"
        self.noise_seeds = [0] * len(row_lengths)  # of uniform noise
        self._patterns: dict[tuple[int, tuple[tuple[int, int], ...]], tuple[Tensor, Tensor]] = {}
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
        under a token shift, entry i predicts the block's token i+1. With a draft adapter, token 0 is a clean row."""
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

    @torch.inference_mode()
    def select(self, rows: list[int]) -> None:
        """Keep only these rows; the others are finished."""
        self.cache.select(rows)
        self._offsets = [self._offsets[row] for row in rows]
        self.noise_seeds = [self.noise_seeds[row] for row in rows]

    @torch.inference_mode()
    def add(self, row_lengths: Sequence[int], max_length: int) -> None:
        """Add empty rows after the others. max_length: the most positions of any row from now on; row_lengths: the
        length that each new row can reach. For a session with a SlotCache."""
        self.cache.add(len(row_lengths), max_length)
        self._offsets += [self.model.position_offset(length) for length in row_lengths]
        self.noise_seeds += [0] * len(row_lengths)

    @torch.inference_mode()
    def swap(self, one: int, other: int) -> None:
        """Exchange two rows. For a session with a SlotCache."""
        self.cache.swap(one, other)
        for each in (self._offsets, self.noise_seeds):
            each[one], each[other] = each[other], each[one]

    @torch.inference_mode()
    def copy(self, row: int, tokens: int) -> RowContext:
        """The keys and values of a row's first tokens, which `paste` puts into an empty row of any session of this
        model. For a session with a SlotCache."""
        return self.cache.copy(row, tokens)

    @torch.inference_mode()
    def paste(self, row: int, context: RowContext, tokens: int) -> None:
        """Make the first `tokens` of a copied context those of an empty row."""
        self.cache.paste(row, context, tokens)

    @torch.inference_mode()
    def run(self, passes: Sequence[Pass]) -> Tensor:
        """One pass a row. Float32 logits [N, V] of the wanted positions, row by row.

        All rows share one forward, unless one of them reads many more tokens than another (`shared_forwards`).
        """
        if self.model.draft is not None:
            passes = [each.noise_after_first_token() for each in passes]
        moved = [
            (row, each.moved_from, each.start - 1) for row, each in enumerate(passes) if each.moved_from is not None
        ]
        if moved:
            self.cache.move(*zip(*moved))
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
            key = self._keys(query, starts, key_position, key_present)
            mask, key_position = self._mask(query, key), key.position
        else:
            mask, position_ids, key_position = aligned
        window = self.model.window
        near = None
        if window is not None and key_position.shape[1] > window:
            distance = position_ids[:, None, :, None] - key_position[:, None, None, :]
            near = distance < window if mask is None else mask & (distance < window)
        offsets = self._offsets[rows.start : rows.stop]
        if any(offsets):
            position_ids = position_ids + torch.tensor(offsets, device=self.model.device)[:, None]
        ids, noise = [list(each.tokens) for each in passes], None
        if self.model.draft is not None:
            seeds = self.noise_seeds[rows.start : rows.stop]
            noise = self.model.draft.noise_rows(passes, ids, width, seeds, self.model.device)
        hidden_BQD = self.model.hidden(
            torch.tensor([[*own, *[0] * (width - len(own))] for own in ids], device=self.model.device),
            mask,
            position_ids,
            self.cache.network_cache,
            key_position.shape[1],
            near,
            noise,
        )
        self.cache.keep([each.kept for each in passes], rows)
        return [
            hidden_BQD[row] if len(each.wanted) == width else hidden_BQD[row, list(each.wanted)]
            for row, each in enumerate(passes)
        ]

    def _aligned(
        self, passes: Sequence[Pass], width: int, key_position: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor] | None:
        """The mask [1, 1, Q, K] (None: every query sees every key), the RoPE positions [1, Q] and the positions of the
        keys [1, K], for rows that run the same kind of pass at the same positions, as a single row always does. None
        for other rows.

        The predicate is short in this case: a noised block sees all tokens, and a causal token sees itself and all
        earlier ones. To evaluate it for every pair of tokens would take a fifth of a small model's forward.
        """
        noised, groups = passes[0].noised, passes[0].groups
        if not self.cache.aligned or any(
            len(each.tokens) != width or each.noised != noised or each.groups != groups for each in passes
        ):
            return None
        if groups:  # every query sees the context; among the tokens of the pass, the mask is the same each time
            seen_QQ, offset_Q = self._pattern(passes[0].clean, groups)
            position_ids = key_position[:, -width:][:, :1] + offset_Q
            mask = seen_QQ.new_ones(1, 1, width, key_position.shape[1])
            mask[..., -width:] = seen_QQ
            return mask, position_ids, torch.cat([key_position[:, :-width], position_ids], dim=1)
        position_ids = key_position[:, -width:]
        if noised and all(each.block_size >= width for each in passes):
            return None, position_ids, key_position
        if noised or self.context != "token_causal":
            return None
        if width == 1:
            return None, position_ids, key_position
        return (key_position <= position_ids[0, :, None])[None, None], position_ids, key_position

    def _pattern(self, clean: int, groups: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
        """Which tokens of a mixed pass see each other, bool [Q, Q], and the offsets of their positions [Q]."""
        found = self._patterns.get((clean, groups))
        if found is None:
            width = clean + sum(count for _, count in groups)
            query, position = self._queries([Pass([0] * width, 0, False, 1, (), groups)], width)
            found = self._patterns[clean, groups] = self._mask(query, query)[0, 0], position[0]
        return found

    def _mask(self, query: Tokens, key: Tokens) -> Tensor:
        """The mask [B, 1, Q, K]. Without a draft adapter, all noised tokens of a block see each other."""
        causal = self.model.draft is not None and self.model.draft.spec.noise_attention == "causal"
        return dense_mask(query, key, self.context, torch.zeros_like(key.noised) if causal else None)

    def _queries(self, passes: Sequence[Pass], width: int) -> tuple[Tokens, Tensor]:
        """The tokens of this forward and their RoPE positions, each [B, Q].

        A row with fewer than `width` tokens is padded with clean tokens after its own. A padding token sees at least
        itself, so no softmax is empty. No other token sees it, the cache does not keep it, and it gets no new position.
        """
        facts = [(each.start, len(each.tokens), each.block_size, each.noised) for each in passes]
        start, count, block_size, noised = torch.tensor(facts, device=self.model.device).unsqueeze(2).unbind(1)
        index = torch.arange(width, device=self.model.device)[None]
        position, real = start + index, index < count
        block = torch.where(real, position - index % block_size, position)
        noised = real & noised.bool()
        last = (start + count - 1).clamp(min=0)
        for row, each in enumerate(passes):
            if each.groups:
                clean, own = each.clean, slice(each.clean, len(each.tokens))
                # To the mask, a leaf is a noised block of one token. Groups at the same position are different blocks,
                # each after the clean tokens before this position, and not after the one at it.
                numbers = 1 + len(each.groups)  # of blocks for each position
                block[row] = position[row] * numbers
                groups = enumerate(each.groups)
                blocks = [(each.start + at) * numbers - group for group, (at, length) in groups for _ in range(length)]
                block[row, own] = torch.tensor(blocks, device=self.model.device)
                position[row, own] = torch.tensor(each.offsets[clean:], device=self.model.device) + each.start
                noised[row] = real[row] & (index[0] >= clean)
                last[row] = position[row, : len(each.tokens)].max()
        query = Tokens(noised=noised, position=position, block=block, document=torch.zeros_like(start))
        return query, torch.minimum(position, last)

    def _keys(self, query: Tokens, starts: Sequence[int], slot: Tensor, present: Tensor) -> Tokens:
        """The tokens of the cache's K slots. Committed tokens are clean and in earlier blocks than this forward's
        tokens; the slots from a row's start on have the tokens of its queries, in their order."""
        rows, width = query.position.shape
        offset = slot - torch.tensor(starts, device=slot.device)[:, None]
        fresh = present & (offset >= 0)
        index = offset.clamp(0, width - 1).expand(rows, -1)
        return Tokens(
            noised=fresh & query.noised.gather(1, index),
            position=torch.where(fresh, query.position.gather(1, index), slot),
            block=torch.where(fresh, query.block.gather(1, index), slot),
            document=torch.where(present, 0, PADDING),
        )
