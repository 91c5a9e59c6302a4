"""What to load weights as: dtype, device and quantisation, as keyword arguments of transformers' `from_pretrained`."""

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.model.cpu_arithmetic import cpu_computes_bfloat16
from nbdiff_engine.model.description import CheckpointDescription

logger = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["8bit", "4bit"]

# On a CPU that computes bfloat16 slowly, smaller models are widened to float32 by dtype="auto"; bytes in float32.
WIDENED_LIMIT = 4 << 30


def resolve_device(device: str) -> torch.device:
    """The device of "auto" or of a torch device string. Raises SettingError if it is not available."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(1, device=resolved).item()  # fails for "meta", a device without values
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise SettingError(
            f"The device {brief(device)} is not available here; use 'cpu', or leave it at 'auto'."
        ) from error
    return resolved


def weight_options(
    described: CheckpointDescription, dtype: Dtype, device: torch.device, quantization: Quantization | None
) -> dict[str, Any]:
    """Keyword arguments of from_pretrained. Raises SettingError for an invalid value, or one that does not fit the
    weights."""
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise SettingError(f"dtype is {brief(dtype)}; choose auto, float32, bfloat16 or float16.")
    if quantization not in (None, "8bit", "4bit"):
        raise SettingError(f"quantization is {brief(quantization)}; choose 8bit, 4bit, or leave it out.")
    stored = stored_quantization(described)
    if stored is not None:
        _require_as_stored(described, stored, dtype, quantization)
    plain = quantization is None and stored is None
    options: dict[str, Any] = {"dtype": _dtype(described, dtype, device, plain)}
    if quantization is not None or stored in ("8bit", "4bit"):
        if importlib.util.find_spec("bitsandbytes") is None:
            raise SettingError(
                f"{quantization or stored} weights need the package bitsandbytes: pip install bitsandbytes."
            )
        # bitsandbytes warns at every forward of every 8-bit layer that it quantises activations from float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if quantization is not None and stored is None:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=quantization == "8bit",
            load_in_4bit=quantization == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=options["dtype"],
        )
    if not plain or device.type != "cpu":
        options["device_map"] = {"": str(device)}
    return options


def _dtype(described: CheckpointDescription, dtype: Dtype, device: torch.device, plain: bool) -> torch.dtype:
    """The dtype of the weights in memory. plain: they are not quantised."""
    wanted = described.saved_dtype if dtype == "auto" else dtype
    if dtype == "auto" and wanted in ("float16", "bfloat16") and device.type == "cpu":
        if plain and 0 < 4 * described.parameters <= WIDENED_LIMIT and not cpu_computes_bfloat16():
            logger.info("%s is computed in float32: this CPU computes bfloat16 more slowly.", described.label)
            return torch.float32
        if wanted == "float16":
            logger.warning(
                "%s is stored in float16 and runs in bfloat16 on a CPU, which rounds its weights; "
                "dtype='float32' keeps their values, dtype='float16' keeps the format.",
                described.label,
            )
        wanted = "bfloat16"
    if wanted == "float64" and device.type == "mps":  # Apple's GPUs have no float64
        wanted = "float32"
    return getattr(torch, wanted)


def stored_quantization(described: CheckpointDescription) -> str | None:
    """How the stored weights are quantised: "8bit" or "4bit" by bitsandbytes, or the name of another method; None for
    plain weights."""
    stored = getattr(described.config, "quantization_config", None)
    if stored is None:
        return None
    fields: Mapping[str, Any] = stored if isinstance(stored, Mapping) else stored.to_dict()
    if fields.get("load_in_4bit"):
        return "4bit"
    if fields.get("load_in_8bit"):
        return "8bit"
    return str(fields.get("quant_method") or "an unknown method")


def _require_as_stored(
    described: CheckpointDescription, stored: str, dtype: Dtype, quantization: Quantization | None
) -> None:
    """Raise SettingError for a request that the stored weights do not meet: transformers would ignore it."""
    if quantization not in (None, stored):
        raise SettingError(
            f"The weights of {described.label} are stored in {stored}, so quantization={quantization!r} cannot be met; "
            "leave it out, or load the unquantised checkpoint."
        )
    if dtype not in ("auto", described.saved_dtype):
        raise SettingError(
            f"The weights of {described.label} are stored in {stored} and computed in {described.saved_dtype}, so "
            f"dtype={dtype!r} cannot be met; leave it at auto, or load the unquantised checkpoint."
        )
