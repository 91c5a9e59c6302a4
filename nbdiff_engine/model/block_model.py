"""BlockModel: one transformers causal LM, run over a KV cache by prefill, denoise, commit and rollback.

Every forward of every strategy is one `Pass` per row. A pass gives the tokens and their positions, whether they are
noised or clean, and the tokens whose logits are wanted. A denoise pass is noised: it is bidirectional inside its
block and does not change the cache. Prefill and commit passes are clean: the cache keeps their tokens. Rows may be at
different positions and in different phases: one row can denoise while another commits in the same forward.

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
from nbdiff_engine.model.families import logit_scale_of
from nbdiff_engine.model.fused_forward import FusedBody, can_fuse
from nbdiff_engine.model.kv_cache import CacheMaker, KVCache, SlotCache
from nbdiff_engine.model.spec import DiffusionSpec

# Queries per forward of a prefill. Limits the mask to CHUNK x context: 16 MB instead of 1 GB at 32k tokens.
PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Pass:
    """One row's part of a forward.

    tokens: the ids, the first at sequence position `start`. Tokens that were committed at or after `start` are
    rolled back. block_size: tokens per block; the first block begins at `start`. wanted: the indices into `tokens`
    whose logits are computed.
    """

    tokens: Sequence[int]
    start: int
    noised: bool
    block_size: int
    wanted: Sequence[int]

    @classmethod
    def prefill(cls, tokens: Sequence[int], block_size: int = 1, want_next: bool = True, start: int = 0) -> list[Self]:
        """Read a prompt, or a part of one, from position `start` and keep it, with at most PREFILL_CHUNK tokens per
        pass. The last pass wants the logits of the last token.

        Causal unless block_size > 1. Chunks end on block borders, because one forward must read a whole block.
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
        """No token: a row that waits for the other rows of the forward. at: the length of its context."""
        return cls((), at, False, 1, ())

    @classmethod
    def denoise(cls, block: Sequence[int], start: int, wanted: Sequence[int]) -> Self:
        """Run a block bidirectionally over the committed context. The cache keeps nothing of it."""
        return cls(block, start, True, len(block), wanted)

    @classmethod
    def commit(cls, block: Sequence[int], start: int, wanted: Sequence[int] | None = None) -> Self:
        """Read a finished block as context and keep it. By default the logits of its last token are wanted."""
        return cls(block, start, False, len(block), (len(block) - 1,) if wanted is None else wanted)


class BlockModel:
    """A causal LM, its tokenizer and its DiffusionSpec (None: an AR checkpoint). `load` creates it and checks that the
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
        """bos_before_template: whether a BOS is put before the text that the chat template renders.

        fused: run the layers that `fused_forward` supports in fewer operations. This rearranges the network's weights:
        use it only for a network that is neither trained nor saved.
        """
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.spec = spec
        self.name = name
        self.bos_before_template = bos_before_template
        self.body: nn.Module = network.base_model
        # Looked up once: each look-up through a transformers model takes as long as a small matrix product.
        self._fused = FusedBody(network) if fused and can_fuse(network) else None
        self._head = network.get_output_embeddings()
        self._logit_scale = logit_scale_of(network.config)
        # A quantised head, and one whose weights are offloaded, is called as a module.
        plain = type(self._head) is nn.Linear and not self._head.weight.is_meta
        self._head_weight = self._head.weight.detach().float() if plain else None
        self._head_bias = self._head.bias.detach().float() if plain and self._head.bias is not None else None

    def __repr__(self) -> str:
        kind = "AR only" if self.spec is None else f"block size {self.spec.block_size}"
        size = f"{self.parameters / 1e6:.1f}M parameters"
        return f"BlockModel({self.name!r}, {size}, {kind}, {self.dtype}, {self.device})"

    @cached_property
    def device(self) -> torch.device:
        # Cached: transformers searches for a parameter each time, which takes longer than a small layer.
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
        """Positions this checkpoint can hold; a sliding window limits them."""
        return context_length_of(self.network.config, self.name)

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer; empty if the checkpoint names none."""
        return eos_token_ids_of(self.network.generation_config, self.network.config, self.tokenizer, self.name)

    def require_spec(self, why: str) -> DiffusionSpec:
        """The spec, or a SettingError that says what is missing. why: the subject of "... needs" in that sentence."""
        if self.spec is None:
            raise SettingError(
                f"{self.name} is an autoregressive checkpoint: its config.json has no 'block_diffusion' entry, "
                f"which {why} needs. Decode it with strategy='ar', or adapt it first."
            )
        return self.spec

    # -- head -------------------------------------------------------------------------------------------

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Float32 logits [N, V] of hidden states [N, D].

        With a bf16 head the two best tokens have equal logits at 4 % of positions, and a 1-token pass and a
        16-token pass then choose differently. A float32 head over a bf16 network has no such ties.
        """
        if self._head_weight is None:
            logits_NV = self._head(hidden_ND).float()
        else:
            logits_NV = F.linear(hidden_ND.to(self._head_weight), self._head_weight, self._head_bias)
        return logits_NV if self._logit_scale == 1 else logits_NV * self._logit_scale

    # -- passes -----------------------------------------------------------------------------------------

    def hidden(self, ids_BQ: Tensor, mask: Tensor | None, position_BQ: Tensor, cache: Cache, keys: int) -> Tensor:
        """Hidden states [B, Q, D] of a forward. mask: bool [B or 1, 1, Q, K], None if every query sees every key.

        keys: how many keys the cache will show. position_BQ: RoPE positions, all below `keys`.
        """
        # Converted once to floats: SDPA would convert a bool mask in every layer, and eager attention adds the mask.
        if mask is not None:
            mask = additive(mask, self.dtype)
        if self._fused is not None:
            return self._fused(ids_BQ, mask, position_BQ, cache, keys)
        if mask is None:  # transformers would use a causal mask
            mask = torch.zeros(1, 1, ids_BQ.shape[1], keys, dtype=self.dtype, device=self.device)
        return self.body(
            input_ids=ids_BQ, attention_mask=mask, position_ids=position_BQ, cache=cache, use_cache=True
        ).last_hidden_state

    def open(self, rows: int, max_length: int, cache: CacheMaker = SlotCache) -> "Session":
        """A session of `rows` rows of at most `max_length` positions each. Sessions do not share state.

        cache: creates the KV cache that keeps the session's context.
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
