"""BlockModel: one transformers causal LM, run with a KV cache by prefill, denoise, commit and rollback.

Every forward of every strategy is a `Pass` per row. A pass says which tokens are at which positions, whether they are
noised (a denoise pass, bidirectional inside its block, leaves the cache as it was) or clean (prefill and
commit, kept), and for which of them logits are wanted. Rows may be at different places and in different
phases: one row can denoise while its neighbour commits, and both share the forward.

Shape suffixes: B rows, Q queries, K keys, N wanted positions over all rows, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from nbdiff_engine.errors import SettingError
from nbdiff_engine.model.attention import PADDING, Tokens, additive, dense_mask
from nbdiff_engine.model.description import context_length_of, eos_token_ids_of
from nbdiff_engine.model.fused_forward import FusedBody, can_fuse
from nbdiff_engine.model.kv_cache import CacheMaker, KVCache, SlotCache
from nbdiff_engine.model.spec import DiffusionSpec

# Queries per forward of a prefill. Bounds the mask to CHUNK x context: 16 MB, not 1 GB, at 32k tokens.
PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Pass:
    """One row's share of a forward.

    tokens: the ids, the first at sequence position `start`. Whatever was committed at or after `start` is
    rolled back. block_size: blocks of this many tokens are laid from `start`. wanted: indices into `tokens`
    whose logits are asked for.
    """

    tokens: Sequence[int]
    start: int
    noised: bool
    block_size: int
    wanted: Sequence[int]

    @classmethod
    def prefill(cls, tokens: Sequence[int], block_size: int = 1, want_next: bool = True, start: int = 0) -> list[Self]:
        """Read a prompt, or more of one, from position `start` and keep it, PREFILL_CHUNK tokens a pass; logits of
        its last token.

        Causal unless block_size > 1. Chunks end on block borders, since a block must be seen whole.
        """
        step = max(block_size, PREFILL_CHUNK // block_size * block_size)
        chunks = []
        for first in range(0, len(tokens), step):
            part = tokens[first : first + step]
            wanted = [len(part) - 1] if want_next and first + step >= len(tokens) else []
            chunks.append(cls(part, start + first, False, block_size, wanted))
        return chunks

    @classmethod
    def nothing(cls, at: int) -> Self:
        """Take part in a forward without a token: a row that waits for the others, `at` tokens into its context."""
        return cls((), at, False, 1, ())

    @classmethod
    def denoise(cls, block: Sequence[int], start: int, wanted: Sequence[int]) -> Self:
        """Look at a block, bidirectionally, against the committed context. Nothing is kept."""
        return cls(block, start, True, len(block), wanted)

    @classmethod
    def commit(cls, block: Sequence[int], start: int, wanted: Sequence[int] | None = None) -> Self:
        """Read a finished block as context and keep it; logits of its last token by default."""
        return cls(block, start, False, len(block), (len(block) - 1,) if wanted is None else wanted)


class BlockModel:
    """A causal LM, its tokenizer and its DiffusionSpec (None: an AR checkpoint). Made by `load`, which checks that the
    network can be decoded pass by pass."""

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        spec: DiffusionSpec | None,
        name: str,
        bos_before_template: bool = False,
        fused: bool = False,
    ):
        """bos_before_template: whether a BOS goes in front of what the chat template renders.

        fused: run stock layers that `fused` knows in its fewer operations. Rearranges the network's weights, so it is
        for a network that is decoded with and neither trained nor saved.
        """
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.spec = spec
        self.name = name
        self.bos_before_template = bos_before_template
        self.body: nn.Module = network.base_model
        # Looked up once: through a transformers model, each of these takes as long as a small matrix product.
        self._fused = FusedBody(network) if fused and can_fuse(network) else None
        self._head = network.get_output_embeddings()
        plain = type(self._head) is nn.Linear  # a quantised head keeps its own arithmetic
        self._head_weight = self._head.weight.detach().float() if plain else None
        self._head_bias = self._head.bias.detach().float() if plain and self._head.bias is not None else None

    def __repr__(self) -> str:
        kind = "AR only" if self.spec is None else f"block size {self.spec.block_size}"
        size = f"{self.parameters / 1e6:.1f}M parameters"
        return f"BlockModel({self.name!r}, {size}, {kind}, {self.dtype}, {self.device})"

    @cached_property
    def device(self) -> torch.device:
        # Cached: transformers looks for a parameter to ask, which takes longer than a small layer.
        return self.network.device

    @cached_property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def parameters(self) -> int:
        return self.network.num_parameters()

    @property
    def vocab_size(self) -> int:
        return self.network.get_input_embeddings().weight.shape[0]

    @cached_property
    def context_length(self) -> int:
        """Positions this checkpoint can hold, sliding windows counted."""
        return context_length_of(self.network.config, self.name)

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer; empty where nothing names one."""
        return eos_token_ids_of(self.network.generation_config, self.network.config, self.tokenizer, self.name)

    def require_spec(self, why: str) -> DiffusionSpec:
        """The spec, or a SettingError that says what is missing. `why` completes "... needs"."""
        if self.spec is None:
            raise SettingError(
                f"{self.name} is an autoregressive checkpoint: its config.json has no 'block_diffusion' entry, "
                f"which {why} needs. Decode it with strategy='ar', or adapt it first."
            )
        return self.spec

    # -- head -------------------------------------------------------------------------------------------

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Float32 logits [N, V] of hidden states [N, D].

        A bf16 head makes exact ties of the two best tokens in 4 % of positions, and a 1-token pass and a
        16-token pass then break them differently. A float32 head under bf16 weights has no ties.
        """
        if self._head_weight is None:
            return self._head(hidden_ND).float()
        return F.linear(hidden_ND.float(), self._head_weight, self._head_bias)

    # -- passes -----------------------------------------------------------------------------------------

    def hidden(self, ids_BQ: Tensor, mask: Tensor | None, position_BQ: Tensor, cache: Cache, keys: int) -> Tensor:
        """Hidden states [B, Q, D] of a forward. mask: bool [B or 1, 1, Q, K], None where everything is seen.

        position_BQ: RoPE positions, below `keys`, how many keys the cache will show.
        """
        # As numbers, once: SDPA would turn booleans into them in every layer, and eager attention adds what it gets.
        if mask is not None:
            mask = additive(mask, self.dtype)
        if self._fused is not None:
            return self._fused(ids_BQ, mask, position_BQ, cache, keys)
        if mask is None:  # transformers would take none for causal
            mask = torch.zeros(1, 1, ids_BQ.shape[1], keys, dtype=self.dtype, device=self.device)
        return self.body(
            input_ids=ids_BQ, attention_mask=mask, position_ids=position_BQ, cache=cache, use_cache=True
        ).last_hidden_state

    def open(self, rows: int, max_length: int, cache: CacheMaker = SlotCache) -> "Session":
        """A session of `rows` rows, none longer than `max_length` positions. Sessions do not share state.

        cache: what makes the cache that the session's context is kept in.
        """
        return Session(self, cache(self.network.config, rows, max_length, self.device))


class Session:
    """One batch of rows being decoded: the network and the rows' committed context."""

    def __init__(self, model: BlockModel, cache: KVCache):
        self.model = model
        self.cache = cache
        self.context = model.spec.context if model.spec else "token_causal"

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
        """Look at blocks of one length b against the context. Logits [B, b, V] as the network gives them:
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
        """Forget each row's committed tokens beyond `lengths`."""
        self.cache.lengths = [min(old, new) for old, new in zip(self.cache.lengths, lengths, strict=True)]

    def select(self, rows: list[int]) -> None:
        """Keep only these rows; the others are finished."""
        self.cache.select(rows)

    @torch.inference_mode()
    def run(self, passes: Sequence[Pass]) -> Tensor:
        """One pass a row, all in one forward. Float32 logits [N, V] of the wanted positions, row by row."""
        hidden = self._forward(passes)
        return self.model.logits(hidden[0] if len(hidden) == 1 else torch.cat(hidden))

    def _forward(self, passes: Sequence[Pass]) -> list[Tensor]:
        """Per row, the hidden states [n, D] of its wanted positions."""
        width = max(len(each.tokens) for each in passes)
        starts = [each.start for each in passes]
        assert all(start <= length for start, length in zip(starts, self.cache.lengths)), "a gap in the context"
        key_position, key_present = self.cache.prepare(starts, width)
        aligned = self._aligned(passes, width, key_position)
        if aligned is None:
            query, position_ids = self._queries(passes, width)
            mask = dense_mask(query, self._keys(query, key_position, key_present), self.context)
        else:
            mask, position_ids = aligned
        ids = [[*each.tokens, *[0] * (width - len(each.tokens))] for each in passes]
        hidden_BQD = self.model.hidden(
            torch.tensor(ids, device=self.model.device),
            mask,
            position_ids,
            self.cache.network_cache,
            key_position.shape[1],
        )
        self.cache.keep([0 if each.noised else len(each.tokens) for each in passes])
        return [
            hidden_BQD[row] if len(each.wanted) == width else hidden_BQD[row, list(each.wanted)]
            for row, each in enumerate(passes)
        ]

    def _aligned(self, passes: Sequence[Pass], width: int, key_position: Tensor) -> tuple[Tensor | None, Tensor] | None:
        """The mask [1, 1, Q, K], None where all is seen, and RoPE positions [1, Q] for rows that all do the same at
        the same place, as a single row always does; None where they do not.

        What the predicate says there is short: a noised block sees all there is, a causal token what is not
        after it. Worked out token by token, it would take a fifth of a small model's forward.
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

        A row with fewer than `width` tokens is filled up with clean tokens that follow its own: they see at
        least themselves, so no softmax is empty, and nothing of theirs is seen, kept or counted as a position.
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
        """The tokens of the cache's K keys. Committed tokens are clean and in blocks before this forward's; the keys
        that this forward writes are its queries' own tokens."""
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
