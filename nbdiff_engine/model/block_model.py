"""BlockModel: one transformers causal LM with its tokenizer and its DiffusionSpec; `open` begins a batch of rows.

Shape suffixes: B rows, Q queries, K keys, N wanted positions over all rows, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from nbdiff_engine.errors import SettingError
from nbdiff_engine.model.attention import additive
from nbdiff_engine.model.description import eos_token_ids_of
from nbdiff_engine.model.draft_adapter import DraftAdapter, NoiseRows, running
from nbdiff_engine.model.families import logit_scale_of
from nbdiff_engine.model.fused_forward import FusedBody, can_fuse
from nbdiff_engine.model.head import Head
from nbdiff_engine.model.kv_cache import CacheMaker, SlotCache
from nbdiff_engine.model.layer_kinds import context_length_of, window_of
from nbdiff_engine.model.rope import LONG, RowRope, original_length_of
from nbdiff_engine.model.session import Session
from nbdiff_engine.model.spec import DiffusionSpec


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
        draft: DraftAdapter | None = None,
        never_predicted: tuple[int, ...] | None = None,
    ):
        """bos_before_template: whether a BOS is put before the text that the chat template renders.

        fused: run the layers that `fused_forward` supports in fewer operations. This rearranges the network's weights:
        use it only for a network that is neither trained nor saved.

        draft: a draft adapter of this network, which is attached to it. never_predicted: ids of tokens that no strategy
        predicts; None: MASK of the spec, if it is a token.
        """
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.spec = spec
        self.name = name
        self.bos_before_template = bos_before_template
        self.body: nn.Module = network.base_model
        # Looked up once: each look-up through a transformers model takes as long as a small matrix product.
        self._fused = FusedBody(network, draft) if fused and can_fuse(network) else None
        self.draft = draft
        if draft is not None:
            draft.attach(network, linear=self._fused is None)
        if never_predicted is None:
            never_predicted = () if spec is None or spec.mask_token_id >= self.vocab_size else (spec.mask_token_id,)
        self.never_predicted = never_predicted
        self._mixed = self.window is not None and bool(getattr(network.config, "layer_types", None))
        fixed_rope = isinstance(getattr(self.body, "rotary_emb", None), RowRope)
        self._original_length = original_length_of(network.config) if fixed_rope else None
        self._head = Head(network.get_output_embeddings(), pack=self._fused is not None)
        self._logit_scale = logit_scale_of(network.config)

    def __repr__(self) -> str:
        kind = "AR only" if self.spec is None else f"block size {self.spec.block_size}"
        size = f"{self.parameters / 1e6:.1f}M parameters"
        return f"BlockModel({self.name!r}, {size}, {kind}, {self.dtype}, {self.device})"

    @property
    def is_fused(self) -> bool:
        """Whether its layers run in fewer operations."""
        return self._fused is not None

    @cached_property
    def device(self) -> torch.device:
        # Cached: transformers searches for a parameter each time, which takes longer than a small layer.
        return self.network.device

    @cached_property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def drafts(self) -> bool:
        """Whether a draft adapter is attached."""
        return self.draft is not None

    @property
    def parameters(self) -> int:
        return self.network.num_parameters()

    @property
    def vocab_size(self) -> int:
        return self.network.get_input_embeddings().weight.shape[0]

    @cached_property
    def context_length(self) -> int:
        """Positions this checkpoint can hold."""
        return context_length_of(self.network.config, self.name)

    @cached_property
    def window(self) -> int | None:
        """How many tokens a sliding-window layer sees; None if the network has no such layer."""
        return window_of(self.network.config)

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

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Float32 logits [N, V] of hidden states [N, D]."""
        logits_NV = self._head(hidden_ND)
        return logits_NV if self._logit_scale == 1 else logits_NV * self._logit_scale

    # -- passes -----------------------------------------------------------------------------------------

    def hidden(
        self,
        ids_BQ: Tensor,
        mask: Tensor | None,
        position_BQ: Tensor,
        cache: Cache,
        keys: int,
        near: Tensor | None = None,
        noise: NoiseRows | None = None,
    ) -> Tensor:
        """Hidden states [B, Q, D] of a forward. mask: bool [B or 1, 1, Q, K], None if every query sees every key.

        keys: how many keys the cache will show. position_BQ: RoPE positions, each below `keys` plus the offset of its
        row. near: the mask of sliding-window layers; None if it is `mask`. noise: the noise rows of a draft adapter.
        """
        with running(noise):
            if self._fused is not None:
                added = None if mask is None else additive(mask, self.dtype)
                return self._fused(ids_BQ, added, position_BQ, cache, keys, noise)
            if mask is None:  # transformers would use a causal mask
                mask = torch.ones(1, 1, ids_BQ.shape[1], keys, dtype=torch.bool, device=self.device)
            # Converted once to floats: SDPA would convert a bool mask in every layer, eager attention adds the mask.
            masks = {"full_attention": additive(mask, self.dtype)}
            masks["sliding_attention"] = masks["full_attention"] if near is None else additive(near, self.dtype)
            return self.body(
                input_ids=ids_BQ,
                # A network with a kind for each layer takes a mask for each kind; in the others all layers are alike.
                attention_mask=masks if self._mixed else masks["sliding_attention"],
                position_ids=position_BQ,
                cache=cache,
                use_cache=True,
            ).last_hidden_state

    def position_offset(self, length: int) -> int:
        """What is added to the RoPE positions of a row that can reach `length` tokens (see `rope`)."""
        return LONG if self._original_length is not None and length > self._original_length else 0

    def open(
        self, rows: int, max_length: int, cache: CacheMaker = SlotCache, row_lengths: Sequence[int] | None = None
    ) -> Session:
        """A session of `rows` rows of at most `max_length` positions each. Sessions do not share state.

        cache: creates the KV cache that keeps the session's context. row_lengths: the length that each row can reach,
        by which LongRoPE chooses its frequencies; None: `max_length` for all.
        """
        made = cache(self.network.config, rows, max_length, self.device)
        return Session(self, made, [max_length] * rows if row_lengths is None else row_lengths)
