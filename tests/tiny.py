"""Tiny random models of every tested family, and prompts for them."""

import random
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nbdiff_engine import BlockModel, DiffusionSpec, load

FUSED = ("llama", "qwen2", "qwen3")  # families that `nbdiff_engine.model.fused_forward` supports
FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "smollm3", "olmo2", "phi3")
_QUICK = ("gemma", "qwen3", "llama fused", "nano")
VOCABULARY = 48
MASK = 1

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    # Large weights give peaked predictions that depend on the attended tokens, so a wrong mask changes the output.
    "initializer_range": 0.4,
}

FAST_DLLM = {"context": "block_causal", "block_grid": "absolute"}
UNSHIFTED = {"token_shift": False, "first_token": "masked", "context": "block_causal", "block_grid": "absolute"}


def in_part_slow(models: Iterable[str]) -> list[Any]:
    """These parameters of a test; those of less common models are marked slow."""
    return [pytest.param(each, marks=() if each in _QUICK else pytest.mark.slow) for each in models]


def tiny_model(
    family: str,
    seed: int = 0,
    attention: str = "sdpa",
    spec: dict[str, Any] | None = None,
    fused: bool = False,
    **shape: Any,
) -> BlockModel:
    """A random model of `family` with an NBDiff spec. `spec` overrides fields of the spec, `shape` of the config."""
    config = AutoConfig.for_model(family, **{**SHAPE, **shape})
    config._attn_implementation = attention
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fields = {"mask_token_id": MASK, "block_size": 8, **(spec or {})}
    return BlockModel(network, None, DiffusionSpec(**fields), f"tiny-{family}", fused=fused)


def trained_model() -> BlockModel:
    """The bundled model in float32, without EOS and without a tokenizer, like the random models."""
    nano = load("nano", dtype="float32", fused=False)
    model = BlockModel(nano.network, None, nano.spec, "nano", fused=True)
    model.__dict__["eos_token_ids"] = frozenset()
    return model


def with_context(model: BlockModel, context: str) -> BlockModel:
    """The same network with another `context` in its spec."""
    return BlockModel(model.network, None, model.spec.model_copy(update={"context": context}), model.name)


def prompt_ids(length: int, seed: int = 0) -> list[int]:
    """Random token ids, none of them MASK."""
    return random.Random(seed).choices(range(2, VOCABULARY), k=length)
