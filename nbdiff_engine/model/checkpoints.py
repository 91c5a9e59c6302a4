"""`load`: a bundled name, a folder or a hub id as a BlockModel. Local files first, safetensors only, no remote code."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from nbdiff_engine.errors import CheckpointError, SettingError, brief
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.description import CheckpointDescription, describe, quiet_transformers, why_not
from nbdiff_engine.model.network_check import check_network
from nbdiff_engine.model.rope import fix_rope_per_row

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["8bit", "4bit"]


def load(
    name: str | os.PathLike[str] | CheckpointDescription,
    dtype: Dtype = "auto",
    device: str = "auto",
    quantization: Quantization | None = None,
    for_training: bool = False,
    fused: bool = True,
) -> BlockModel:
    """Load a checkpoint for decoding.

    name: a bundled name (`bundled_models`), a folder, or a hub id, searched in that order; a hub id is searched in
        the local hub cache before the hub. Or the result of `describe`, whose tokenizer is then used.
    dtype: "auto" is the dtype of the checkpoint, except that float16 becomes bfloat16 on a CPU.
    device: "auto" is CUDA if it is available, else the CPU.
    quantization: "8bit" or "4bit" (nf4), through bitsandbytes.
    for_training: do not rearrange the weights, and keep 4-bit layers able to pass gradients; decoding is slower.
    fused: run the layers that `fused_forward` supports in fewer operations; False: run the layers of transformers.

    A checkpoint without a `block_diffusion` entry in its config.json loads as an AR checkpoint (`spec` is None).
    Raises CheckpointError or SettingError with one sentence; never loads only a part of a checkpoint.
    """
    where = resolve_device(device)
    described = name if isinstance(name, CheckpointDescription) else describe(name)
    label, spec = described.label, described.spec
    _require_safetensors(described.folder, label)
    network = _load_network(described, _weight_options(described.saved_dtype, dtype, where, quantization))
    _ = described.context_length  # raises for a checkpoint without one
    if not for_training:  # a training pass has no cache: transformers chooses the frequencies by its longest text
        fix_rope_per_row(network, label)
    if for_training and quantization == "4bit":
        keep_gradients_of_4bit_layers(network)  # before the first forward, which check_network runs
    model = BlockModel(
        network, described.tokenizer, spec, label, described.bos_before_template, fused=fused and not for_training
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


def resolve_device(device: str) -> torch.device:
    """The device of "auto" or of a torch device string. Raises SettingError if it is not available."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).item()  # fails for "meta", a device without values
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise SettingError(
            f"The device {brief(device)} is not available here; use 'cpu', or leave it at 'auto'."
        ) from error
    return resolved


def _require_safetensors(folder: Path, label: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
    if pickles:
        raise CheckpointError(
            f"{label} holds its weights as a pickle only ({pickles[0]}), which can run code when it is loaded; "
            "convert it to safetensors first."
        )
    raise CheckpointError(f"{label} has a config.json but no weights (*.safetensors).")


def _weight_options(
    saved: str, dtype: Dtype, device: torch.device, quantization: Quantization | None
) -> dict[str, Any]:
    """Keyword arguments of from_pretrained for dtype, device and quantization."""
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise SettingError(f"dtype is {brief(dtype)}; choose auto, float32, bfloat16 or float16.")
    if quantization not in (None, "8bit", "4bit"):
        raise SettingError(f"quantization is {brief(quantization)}; choose 8bit, 4bit, or leave it out.")
    wanted = saved if dtype == "auto" else dtype
    if dtype == "auto" and wanted == "float16" and device.type == "cpu":
        wanted = "bfloat16"
    options: dict[str, Any] = {"dtype": getattr(torch, wanted)}
    if quantization is not None:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise SettingError(f"{quantization} weights need the package bitsandbytes: pip install bitsandbytes.")
        # bitsandbytes warns at every forward of every 8-bit layer that it quantises activations from float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantization == "8bit",
            load_in_4bit=quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=options["dtype"],
        )
    if quantization is not None or device.type != "cpu":
        options["device_map"] = {"": str(device)}
    return options


def _load_network(described: CheckpointDescription, options: dict[str, Any]) -> PreTrainedModel:
    """The network with every tensor of the checkpoint loaded. Raises CheckpointError if any tensor does not fit."""
    label, family = described.label, described.family
    if family is not None:
        options = {**options, "key_mapping": dict(family.key_mapping) or None}
    try:
        with quiet_transformers():
            network, loaded = AutoModelForCausalLM.from_pretrained(
                described.folder,
                config=described.config,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # refused below, with the names of the tensors
                attn_implementation="sdpa",
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers may raise any exception here
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
