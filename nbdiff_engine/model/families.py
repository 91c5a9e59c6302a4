"""Published block-diffusion checkpoints as stock transformers classes: each is a stock class under another name.

The facts come from the projects' own files. A value in a checkpoint's config.json takes precedence over this table.
The families that this engine does not decode are here too, each with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec

# Config entries that name the checkpoint's remote code or classes; the stock class replaces them.
_OWN_CODE = ("model_type", "auto_map", "architectures", "transformers_version")
_MASK_ID = ("mask_token_id", "mask_id")
_BLOCK_SIZE = ("block_size", "bd_size", "block_length")


@dataclass(frozen=True, slots=True)
class Family:
    """How to load a published model_type as a stock one. key_mapping: regular expression to replacement, for the names
    of tensors."""

    stock_type: str
    spec: DiffusionSpec
    config: Mapping[str, Any] = field(default_factory=dict)
    key_mapping: Mapping[str, str] = field(default_factory=dict)
    bos_before_template: bool = False  # the prompt is a BOS and then the text of the chat template
    mask_of_tokenizer: bool = False  # if config.json names no mask token, use the tokenizer's

    def stock_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The checkpoint's config.json as keyword arguments of the stock config class."""
        return {key: value for key, value in config.items() if key not in _OWN_CODE} | dict(self.config)

    def diffusion_fields(self, config: Mapping[str, Any], mask_of_tokenizer: int | None = None) -> dict[str, Any]:
        """The spec's fields: the family's, with the mask id and block size that config.json names.

        'mask_token_id' is missing if neither config.json nor the tokenizer names it and the family has no default.
        """
        if CONFIG_KEY in config:
            return config[CONFIG_KEY]
        fields = self.spec.model_dump(mode="json")
        if self.mask_of_tokenizer:
            del fields["mask_token_id"]
            if mask_of_tokenizer is not None:
                fields["mask_token_id"] = mask_of_tokenizer
        for name, keys in (("mask_token_id", _MASK_ID), ("block_size", _BLOCK_SIZE)):
            said = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
            if said is not None:
                fields[name] = said
        if fields["sub_block_size"] is not None:  # a sub-block cannot be wider than its block
            fields["sub_block_size"] = min(fields["sub_block_size"], fields["block_size"])
        return fields


_BLOCK_CAUSAL = {"context": "block_causal", "block_grid": "absolute"}
_UNSHIFTED = {**_BLOCK_CAUSAL, "token_shift": False, "first_token": "masked"}

FAMILIES: dict[str, Family] = {
    # NBDiff-7B Base and Instruct, openPangu-R-7B-Diffusion: Llama with a bias on q, k, v and o.
    "PanguEmbedded": Family(
        stock_type="llama",
        spec=DiffusionSpec(mask_token_id=45830, block_size=32, sub_block_size=4),
        bos_before_template=True,
        config={"attention_bias": True, "mlp_bias": False},
    ),
    # SDAR 4B and 8B Chat. Trained with blocks of 4; variants have blocks of up to 64.
    "sdar": Family(stock_type="qwen3", spec=DiffusionSpec(mask_token_id=151669, block_size=4, **_UNSHIFTED)),
    # dllm's BD3-LM adaptations of Qwen3, decoded with a fixed number of tokens per step: here one.
    "a2d-qwen3": Family(
        stock_type="qwen3",
        spec=DiffusionSpec(mask_token_id=151669, block_size=32, unmasking="top_k", **_UNSHIFTED),
        mask_of_tokenizer=True,
    ),
    # Fast-dLLM v2 1.5B and 7B.
    "Fast_dLLM_Qwen": Family(
        stock_type="qwen2",
        spec=DiffusionSpec(mask_token_id=151665, block_size=32, sub_block_size=8, **_BLOCK_CAUSAL),
    ),
    # Nemotron-Labs-Diffusion 3B and 8B.
    "nemotron_labs_diffusion": Family(
        stock_type="ministral3",
        spec=DiffusionSpec(mask_token_id=100, block_size=32),
        key_mapping={r"^encoder\.": "model.", r"^diffusion_head\.": "lm_head."},
    ),
}

# Diffusion language models that are not adapted causal LMs. The error names the reason, so that it is not taken for
# a bug.
NOT_NATIVE = {
    "llada2_moe": "LLaDA2 is a mixture of experts without a stock transformers class; later versions edit tokens",
    "llada": "LLaDA denoises its whole answer at once, without a causal context",
    "dream": "Dream attends to its whole context bidirectionally",
    "bd3lm": "BD3-LM trained on OpenWebText is a diffusion transformer (DiT), not a causal LM",
    "i-dlm": "I-DLM is strictly causal inside the block",
}

_STATE = "it keeps a recurrent state instead of keys and values, and a denoise pass could not be undone in it"
_MIXED = "some of its layers keep a recurrent state or a convolution, in which a denoise pass could not be undone"
_CAPPED = "it caps its attention scores (soft-capping), which SDPA, the attention of this engine, does not compute"
_ALIBI = "it tells positions by a bias on its attention scores (ALiBi), not by position ids"

# Stock model types that are causal LMs, but not ones that can be run block by block here.
NOT_DECODED = {
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"), _STATE),
    **dict.fromkeys(
        ("jamba", "zamba", "zamba2", "recurrent_gemma", "falcon_h1", "minimax", "zaya", "kimi_linear"), _MIXED
    ),
    **dict.fromkeys(("gemma2", "vaultgemma"), _CAPPED),
    **dict.fromkeys(("bloom", "mpt"), _ALIBI),
    "gpt_oss": "each of its heads has an attention sink, which SDPA, the attention of this engine, does not compute",
}
_ATTENTION = ("attention", "full_attention", "sliding_attention", "chunked_attention", "global", "local")


def why_not_decoded(config: PreTrainedConfig) -> str | None:
    """Why this engine does not decode the networks of a stock config; None where its config shows no reason."""
    if config.model_type in NOT_DECODED:
        return NOT_DECODED[config.model_type]
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    if not all(kind in _ATTENTION for kind in kinds if isinstance(kind, str)):
        return _MIXED
    return _ALIBI if getattr(config, "alibi", False) is True else None


def logit_scale_of(config: PreTrainedConfig) -> float:
    """The factor between the head's output and the logits: Cohere multiplies by `logit_scale`, Granite divides by
    `logits_scaling`, HyperCLOVA X multiplies by it; 1 for all other networks.

    `check_network` compares the scaled output with the network's own logits, so a wrong factor is refused at load.
    """
    factor, scaling = getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)
    scale = float(factor) if isinstance(factor, (int, float)) else 1.0
    if isinstance(scaling, (int, float)) and scaling:
        scale *= scaling if config.model_type == "hyperclovax" else 1 / scaling
    return scale
