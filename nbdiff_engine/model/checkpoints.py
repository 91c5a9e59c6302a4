"""`load`: a bundled name, a folder or a hub id as a BlockModel. Local files first, safetensors only, no remote code."""

import logging
import os
from typing import Any, Literal

from transformers import AutoModelForCausalLM, PreTrainedModel

from nbdiff_engine.errors import CheckpointError, SettingError, brief, brief_text
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.description import CheckpointDescription, describe
from nbdiff_engine.model.draft_adapter import DraftAdapter
from nbdiff_engine.model.draft_spec import require_base
from nbdiff_engine.model.lora_folders import merge_adapter
from nbdiff_engine.model.network_check import check_network
from nbdiff_engine.model.rope import fix_rope_per_row
from nbdiff_engine.model.tokenizer_files import readable_files
from nbdiff_engine.model.transformers_calls import quiet_transformers, why_not
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, require_finite, require_weights
from nbdiff_engine.model.weight_options import Dtype, Quantization, resolve_device, stored_quantization, weight_options

logger = logging.getLogger(__name__)


def load(
    name: str | os.PathLike[str] | CheckpointDescription,
    dtype: Dtype = "auto",
    device: str = "auto",
    quantization: Quantization | None = None,
    for_training: bool = False,
    fused: bool = True,
    base: str | os.PathLike[str] | None = None,
    device_map: Literal["auto"] | None = None,
    adapter: str | os.PathLike[str] | None = None,
) -> BlockModel:
    """Load a checkpoint for decoding.

    name: a bundled or packaged name (`nbdiff models`), a folder, a GGUF file, or a hub id, searched in that order; a
        hub id is searched in the local hub cache before the hub. It may be owner/name@revision, or
        owner/name/file.gguf. A folder or hub id may also be an adapter: a LoRA is merged into its base, a draft
        adapter (`draft_spec`) is active at noise rows only. Or the result of `describe`, whose tokenizer is then used.
    dtype: "auto" is the dtype of the checkpoint, except on a CPU: float16 becomes bfloat16, with a warning, and a small
        model becomes float32 if the CPU computes bfloat16 slowly.
    device: "auto" is CUDA if it is available, else MPS (Apple), else the CPU.
    quantization: "8bit" or "4bit" (nf4), through bitsandbytes. Weights that are stored so need no such request.
    for_training: do not rearrange the weights, and keep 4-bit layers able to pass gradients; decoding is slower.
    fused: run the layers that `fused_forward` supports in fewer operations; False: run the layers of transformers.
    base: the checkpoint of an adapter, if not the one that the adapter names.
    adapter: an adapter of the checkpoint `name`, as in `describe`.
    device_map: "auto" spreads the layers over all devices, and over the main memory and the disk where they do not hold
        the weights (accelerate); decoding is slower. None: all on one device.

    A checkpoint without a `block_diffusion` entry in its config.json loads as an AR checkpoint (`spec` is None).
    Raises CheckpointError or SettingError with one sentence; never loads only a part of a checkpoint.
    """
    if device_map is not None and (device_map != "auto" or device != "auto"):
        raise SettingError(
            f"device_map is {brief(device_map)} and device {brief(device)}; "
            "device_map is 'auto' or left out, and chooses the devices itself."
        )
    where = resolve_device(device)
    described = name if isinstance(name, CheckpointDescription) else describe(name, base, adapter)
    label, spec, draft = described.label, described.spec, None
    require_weights(described.folder, label)
    options = weight_options(described, dtype, where, quantization)
    if device_map is not None:
        options["device_map"] = device_map
    if described.draft is not None and for_training:
        raise SettingError(f"{label} is a draft adapter, which is loaded for decoding only; train from its base.")
    merges = described.adapter is not None and described.draft is None
    if merges and (quantization or stored_quantization(described)):
        raise SettingError(
            f"{label} is an adapter: merged into quantised weights it would be rounded to their few bits; "
            "load it without quantization."
        )
    network = _load_network(described, options)
    if merges:
        network = merge_adapter(network, described.adapter, label)
    require_finite(network, label)
    if described.draft is not None:
        require_base(network, described.draft.base, label, described.base_label)
        draft = DraftAdapter.read(network, described.adapter, spec.mask_token_id, label)
    _ = described.context_length  # raises for a checkpoint without one
    if not for_training:  # a training pass has no cache: transformers chooses the frequencies by its longest text
        fix_rope_per_row(network, label)
    if for_training and quantization == "4bit":
        keep_gradients_of_4bit_layers(network)  # before the first forward, which check_network runs
    spread = len(set(getattr(network, "hf_device_map", {}).values())) > 1
    fused = fused and not for_training and not spread  # accelerate moves the weights of transformers' own layers
    model = BlockModel(
        network,
        described.tokenizer,
        spec,
        label,
        described.bos_before_template,
        fused=fused,
        draft=draft,
        never_predicted=described.never_predicted,
    )
    check_network(model)
    return model


def keep_gradients_of_4bit_layers(network: PreTrainedModel) -> None:
    """Keep bitsandbytes' 4-bit layers in the format that has a backward pass.

    On a CPU with AVX512-BF16, the first forward in eval mode repacks a Linear4bit for a faster forward and rounds
    its scales. The layer then passes no gradient to its input: adapters in earlier layers learn little or nothing,
    although the loss still falls.
    """
    from bitsandbytes.nn import Linear4bit

    for layer in network.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def _load_network(described: CheckpointDescription, options: dict[str, Any]) -> PreTrainedModel:
    """The network with every tensor of the checkpoint loaded. Raises CheckpointError if any tensor does not fit."""
    label, family = described.label, described.family
    if family is not None:
        options = {**options, "key_mapping": dict(family.key_mapping) or None}
    if (described.folder / ADAPTER_CONFIG).is_file() and described.adapter != described.folder:
        logger.warning(
            "The adapter in %s (%s) is not applied: the folder holds full weights, which are loaded without it. "
            "To merge an adapter, name it and its base.",
            label,
            ADAPTER_CONFIG,
        )
    try:
        with quiet_transformers(), readable_files(described.folder, weights=True) as folder:
            network, loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                config=described.config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # refused below, with the names of the tensors
                attn_implementation="sdpa",
                output_loading_info=True,
                adapter_kwargs={"subfolder": ADAPTER_CONFIG},  # where none is: transformers would apply one beside them
                **options,
            )
    except Exception as error:  # transformers may raise any exception here
        stored = stored_quantization(described)
        if stored is not None:
            raise CheckpointError(
                f"The weights of {label} are quantised ({stored}) and cannot be loaded here "
                f"({brief_text(str(error).strip() or type(error).__name__, 120)}); load the unquantised checkpoint, "
                "with quantization='4bit' if it is large."
            ) from error
        raise CheckpointError(why_not(described.model_type, label, error)) from error
    problems = {
        "missing": sorted(loaded["missing_keys"]),
        "unexpected": sorted(loaded["unexpected_keys"]),
        "of another shape": sorted(str(key[0]) for key in loaded["mismatched_keys"]),
    }
    for problem, names in problems.items():
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(
                f"The weights of {label} do not fit {type(network).__name__}: {problem}: {shown}. Nothing was loaded."
            )
    return network
