"""The shape of a base checkpoint without its weights: its config, and its network on the meta device.

The config comes from a local folder or the hub cache. For published checkpoints that are not on this machine, the table
below contains it, so that `estimate` works offline. Only for other names is config.json downloaded from the hub.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from nbdiff_engine.errors import CheckpointError, brief, brief_text
from nbdiff_engine.model.checkpoint_folders import bundled_models, find_checkpoint, label_of, read_json
from nbdiff_engine.model.description import saved_dtype_of, stock_config
from nbdiff_engine.model.hub_checkpoints import HUB_ID
from nbdiff_engine.model.lora_folders import base_of_adapter
from nbdiff_engine.model.weight_files import is_adapter
from training.errors import RecipeError
from training.model.base import trained_dtype
from training.recipe.recipe import Network

_QWEN3 = {
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1e6,
    "dtype": "bfloat16",
}
_06B = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
_4B = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
_8B = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32}
_BASE = {"max_position_embeddings": 32768}
_PANGU = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 12800,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 153376,
    "max_position_embeddings": 32768,
    "rope_theta": 1.6e7,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}

# The key is the name without its owner, because mirrors have the same name.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {**_QWEN3, **_06B, "tie_word_embeddings": True},
    "Qwen3-0.6B-Base": {**_QWEN3, **_06B, **_BASE, "tie_word_embeddings": True},
    "Qwen3-4B": {**_QWEN3, **_4B, "tie_word_embeddings": True},
    "Qwen3-4B-Base": {**_QWEN3, **_4B, **_BASE, "tie_word_embeddings": True},
    "Qwen3-8B": {**_QWEN3, **_8B, "tie_word_embeddings": False},
    "Qwen3-8B-Base": {**_QWEN3, **_8B, **_BASE, "tie_word_embeddings": False},
    "openPangu-Embedded-7B": _PANGU,
    "NBDiff-7B-Base": _PANGU,
    "NBDiff-7B-Instruct": _PANGU,
}


@dataclass(frozen=True, slots=True)
class BaseShape:
    """A checkpoint as described by its config. folder: None if only its shape is known."""

    name: str
    config: PreTrainedConfig
    dtype: torch.dtype  # of the loaded weights
    folder: Path | None

    def network(self) -> PreTrainedModel:
        """The network on the meta device."""
        return meta_network(self.config, self.name)


def find_shape(base: str) -> BaseShape:
    """The shape of a bundled name, a folder or a hub id. Raises CheckpointError with one sentence."""
    is_hub_id = base not in bundled_models() and not Path(base).expanduser().exists() and HUB_ID.fullmatch(base)
    if not is_hub_id:
        folder = find_checkpoint(base)
        return _of_folder(folder, label_of(base, folder))
    cached = huggingface_hub.try_to_load_from_cache(base, "config.json")
    if isinstance(cached, str):
        return _of_folder(Path(cached).parent, base)
    known = {name.lower(): fields for name, fields in PUBLISHED.items()}.get(base.split("/")[1].lower())
    if known is not None:
        return _of_fields(dict(known), base)
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"The shape of {base!r} is not known here, and HF_HUB_OFFLINE is set; give a local folder, "
            f"or one of {', '.join(PUBLISHED)}."
        )
    try:
        return _of_folder(Path(huggingface_hub.hf_hub_download(base, "config.json")).parent, base)
    except Exception as error:  # the hub client's errors have no common base
        raise CheckpointError(f"The config.json of {base!r} cannot be read: {brief_text(str(error), 160)}") from error


def shape_of_new(settings: Network, name: str) -> BaseShape:
    """The shape of the network that `pretrain` creates. Its vocabulary size is that of the tokenizer settings."""
    fields = {"max_position_embeddings": 1024, "tie_word_embeddings": True, **settings.config}
    fields |= {"model_type": settings.model_type, "vocab_size": settings.tokenizer.vocab_size}
    try:
        return _of_fields(fields, name)
    except CheckpointError as error:
        raise RecipeError(str(error)) from error


def meta_network(config: PreTrainedConfig, name: str) -> PreTrainedModel:
    """A network of this config on the meta device, which stores shapes and no values. Raises CheckpointError."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"transformers has no causal LM for {name}: {brief_text(str(error), 200)}") from error


def _of_folder(folder: Path, name: str) -> BaseShape:
    if is_adapter(folder):  # merged into its base, whose shape it keeps but for a row of MASK
        return replace(find_shape(base_of_adapter(folder, name)), name=name)
    fields = read_json(folder)
    dtype = trained_dtype(saved_dtype_of(fields, name))
    return BaseShape(name, stock_config(folder, fields, name), dtype, folder)


def _of_fields(fields: dict[str, Any], name: str) -> BaseShape:
    """The shape of a stock network whose config entries are `fields`."""
    model_type = str(fields.pop("model_type", None))
    try:
        config = AutoConfig.for_model(model_type, **fields)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"The config of {name}, of type {brief(model_type)}, is not valid: {brief_text(str(error), 160)}"
        ) from error
    return BaseShape(name, config, trained_dtype(saved_dtype_of(fields, name)), None)
