"""A LoRA adapter in PEFT's format, merged into the weights of its base when they are loaded.

Its folder may also hold `block_diffusion.json`, the DiffusionSpec of the merged model: training writes it, because the
config of the base has none. If the adapter trains rows of the vocabulary that its base does not have (a new MASK), the
vocabulary of the base grows by them. peft is imported where it is used. Only safetensors are read.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from nbdiff_engine.errors import CheckpointError, brief, brief_text
from nbdiff_engine.model.checkpoint_folders import bundled_models, read_json
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec
from nbdiff_engine.model.vocabulary_rows import add_rows
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_SPEC = "block_diffusion.json"

# Fields that make peft import another package, or compute the start values of a new adapter from the base.
_NOT_READ = ("megatron_config", "auto_mapping", "eva_config", "corda_config", "loftq_config", "lora_ga_config")


def base_of_adapter(folder: Path, label: str) -> str:
    """The name of an adapter's base, as its config names it, or its path if it is given relative to the adapter's
    folder. Raises CheckpointError if it names none."""
    base = read_json(folder, ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise CheckpointError(f"{label} is an adapter whose {ADAPTER_CONFIG} names no base; give it as base (--base).")
    return beside_adapter(folder, base)


def beside_adapter(folder: Path, base: str) -> str:
    """The name of a base, or its absolute path if it names a place that exists relative to an adapter's folder.

    That place is tried before the working directory, so that folders which are moved together stay a pair.
    """
    named = bundled_models() | PACKAGED_MODELS
    try:
        path = folder / base
        relative = base not in named and not Path(base).is_absolute() and path.exists()
    except (OSError, ValueError):  # a name that is too long, or with a NUL
        return base
    return str(path.resolve()) if relative else base


def spec_of_adapter(folder: Path, label: str, vocabulary: int, eos_token_ids: frozenset[int]) -> DiffusionSpec | None:
    """The spec of a base with the adapter merged; None if the folder has none. Raises CheckpointError.

    vocabulary: rows of the base. eos_token_ids: of the merged model.
    """
    if not (folder / ADAPTER_SPEC).is_file():
        return None
    rows = max(vocabulary, _rows_needed(folder))
    fields = {CONFIG_KEY: read_json(folder, ADAPTER_SPEC), "vocab_size": rows, "eos_token_id": eos_token_ids}
    return DiffusionSpec.from_config(fields, label)


def write_spec(spec: DiffusionSpec, folder: Path) -> None:
    """Write the spec of the merged model to an adapter's folder."""
    (folder / ADAPTER_SPEC).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _rows_needed(folder: Path) -> int:
    """Rows of the vocabulary that an adapter needs: one more than the highest token id that it trains. 0: it trains
    none."""
    trained = read_json(folder, ADAPTER_CONFIG).get("trainable_token_indices") or []
    lists = trained.values() if isinstance(trained, dict) else [trained]
    ids = [each for ids in lists if isinstance(ids, list) for each in ids if isinstance(each, int)]
    return max(ids, default=-1) + 1


def merge_adapter(network: PreTrainedModel, folder: Path, label: str) -> PreTrainedModel:
    """The network with the adapter of a folder merged into its weights, which keep their dtype. Raises as
    `with_adapter`."""
    dtype = network.dtype
    return merged(with_adapter(network, folder, label), dtype)


def with_adapter(network: PreTrainedModel, folder: Path, label: str) -> "PeftModel":
    """A network with the layers of the LoRA of a folder around its own, in place. Its vocabulary grows by the rows
    that only the adapter has.

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
    rows, needed = network.get_input_embeddings().weight.shape[0], _rows_needed(folder)
    if needed > 2 * rows:  # no new MASK, but another vocabulary
        raise _does_not_fit(network, folder, label, f"it trains token {needed - 1}, and the base has {rows} tokens")
    try:
        if needed > rows:
            add_rows(network, needed)
        known = LoraConfig.__dataclass_fields__
        fields = {name: value for name, value in fields.items() if name in known and name not in _NOT_READ}
        config = LoraConfig(**{**fields, "inference_mode": True, "base_model_name_or_path": None})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft, about new names in transformers
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
