"""Which files of a folder hold a checkpoint's weights, and whether the values that were read are numbers.

Read are the files that transformers reads: `model.safetensors`, or the shards of `model.safetensors.index.json`. A file
`consolidated.safetensors` holds the same weights a second time, under Mistral's own names.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nbdiff_engine.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def shards_of(folder: Path) -> list[Path]:
    """The files that an index names; empty without an index, or with a damaged one."""
    try:
        index: Any = json.loads((folder / INDEX).read_text(encoding="utf-8-sig"))
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return []


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder's weights, those that are there."""
    return [path for path in [folder / WHOLE] if path.is_file()] or [
        path for path in shards_of(folder) if path.is_file()
    ]


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter (PEFT) without the weights of its base."""
    return (folder / ADAPTER_CONFIG).is_file() and not weight_files(folder)


def is_download_complete(folder: Path) -> bool:
    """Whether a download is complete: it has its config and its weights, all shards if there is an index."""
    if (folder / ADAPTER_CONFIG).is_file() and (folder / ADAPTER_WEIGHTS).is_file():
        return True
    if not (folder / "config.json").is_file():
        return False
    if (folder / WHOLE).is_file():
        return True
    shards = shards_of(folder)
    return bool(shards) and all(path.is_file() for path in shards)


def require_weights(folder: Path, label: str) -> None:
    """Raise CheckpointError, one sentence, for a folder without weights that can be read."""
    if weight_files(folder):
        return
    missing = [path.name for path in shards_of(folder)]
    if missing:
        raise CheckpointError(f"{label} lacks {len(missing)} files of its weights; the first is {missing[0]}.")
    if (folder / INDEX).is_file():
        raise CheckpointError(f"The {INDEX} of {label} cannot be read; the checkpoint is damaged.")
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name != ADAPTER_WEIGHTS)
    if others:
        of_mistral = any(name.startswith("consolidated") for name in others)
        names = "Mistral's own format" if of_mistral else "names that transformers does not read"
        raise CheckpointError(
            f"{label} has its weights in {names} ({others[0]}); they must be in {WHOLE}, or in the files of {INDEX}."
        )
    pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
    if pickles:
        raise CheckpointError(
            f"{label} holds its weights as a pickle only ({pickles[0]}), which can run code when it is loaded; "
            "convert it to safetensors first."
        )
    raise CheckpointError(f"{label} has a config.json but no weights (*.safetensors).")


def require_finite(network: nn.Module, label: str) -> None:
    """Raise CheckpointError with the name of the first tensor that holds a NaN or an infinity.

    A sum is one read of the weights, and it is not finite if a value is not; if a sum of
    finite values overflows, a second check of the values shows it.
    """
    with torch.inference_mode():
        for name, tensor in network.named_parameters():
            if not tensor.is_floating_point() or tensor.is_meta or tensor.element_size() < 2:
                continue
            if torch.isfinite(tensor.sum(dtype=torch.float32)) or torch.isfinite(tensor).all():
                continue
            raise CheckpointError(
                f"The tensor {name} of {label} holds values that are no numbers (NaN or infinity): the checkpoint is "
                "damaged, or was saved after its training diverged."
            )
