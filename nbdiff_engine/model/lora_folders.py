"""A LoRA adapter in PEFT's format, merged into the weights of its base when they are loaded.

peft is imported where it is used. Only safetensors are read.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from nbdiff_engine.errors import CheckpointError, brief, brief_text
from nbdiff_engine.model.checkpoint_folders import read_json
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from peft import PeftModel

# Fields that make peft import another package, or compute the start values of a new adapter from the base.
_NOT_READ = ("megatron_config", "auto_mapping", "eva_config", "corda_config", "loftq_config", "lora_ga_config")


def base_of_adapter(folder: Path, label: str) -> str:
    """The name of an adapter's base, as its config names it. Raises CheckpointError if it names none."""
    base = read_json(folder, ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise CheckpointError(f"{label} is an adapter whose {ADAPTER_CONFIG} names no base; give it as base (--base).")
    return base


def merge_adapter(network: PreTrainedModel, folder: Path, label: str) -> PreTrainedModel:
    """The network with the adapter of a folder merged into its weights, which keep their dtype. Raises as
    `with_adapter`."""
    dtype = network.dtype
    return merged(with_adapter(network, folder, label), dtype)


def with_adapter(network: PreTrainedModel, folder: Path, label: str) -> "PeftModel":
    """A network with the layers of the LoRA of a folder around its own, in place.

    Raises CheckpointError for an adapter that is no LoRA, is damaged, or belongs to another base.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    fields = read_json(folder, ADAPTER_CONFIG)
    if fields.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{label} is an adapter of the type {brief(fields.get('peft_type'))}; this engine reads LoRA adapters."
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(f"{label} is an adapter without {ADAPTER_WEIGHTS}, the only format that is read here.")
    try:
        known = LoraConfig.__dataclass_fields__
        fields = {name: value for name, value in fields.items() if name in known and name not in _NOT_READ}
        config = LoraConfig(**{**fields, "inference_mode": True, "base_model_name_or_path": None})
        adapted = get_peft_model(network, config)
        loaded = set_peft_model_state_dict(adapted, load_file(folder / ADAPTER_WEIGHTS))
    except Exception as error:  # peft may raise any exception for an adapter that does not fit
        raise _does_not_fit(network, folder, label, str(error)) from error
    missing = [name for name in loaded.missing_keys if ".lora_" in name or "modules_to_save" in name]
    if missing or loaded.unexpected_keys:
        first = f"missing: {missing[0]}" if missing else f"unexpected: {loaded.unexpected_keys[0]}"
        raise _does_not_fit(network, folder, label, first)
    return adapted


def _does_not_fit(network: PreTrainedModel, folder: Path, label: str, reason: str) -> CheckpointError:
    base = read_json(folder, ADAPTER_CONFIG).get("base_model_name_or_path")
    sizes = next((line.strip() for line in reason.split("\n") if "size mismatch" in line), reason)
    return CheckpointError(
        f"The adapter {label} does not fit its base, a {type(network).__name__} of {network.num_parameters():,} "
        f"parameters; it was trained on {brief(base)} ({brief_text(sizes, 160)})."
    )


def merged(adapted: "PeftModel", dtype: torch.dtype) -> PreTrainedModel:
    """The plain network with its adapters folded into its weights, in `dtype`. `adapted` is used up.

    The sum of a weight and its adapter is taken in float32 and rounded once, one layer at a time.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    with torch.no_grad():
        for layer in adapted.modules():
            if isinstance(layer, BaseTunerLayer):
                weight = layer.get_base_layer().weight
                weight.data = weight.data.float()
                layer.merge()
                weight.data = weight.data.to(dtype)
    return adapted.unload().to(dtype)
