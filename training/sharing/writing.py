"""The folders that an export writes: a model for AutoModelForCausalLM, or an adapter for PEFT and for servers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import nbdiff_engine as nb
from nbdiff_engine.model.checkpoint_folders import read_json
from nbdiff_engine.model.gguf_files import CONVERTED_FROM
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from nbdiff_engine.model.weight_options import stored_quantization
from training.errors import RunError
from training.model.base import load_base
from training.run.exporting import write_checkpoint, write_lora
from training.run.manifest import MANIFEST
from training.sharing.export_source import Source
from training.sharing.export_target import publish_export

FOR_SERVERS = "for-servers"  # in an adapter's folder: the LoRA matrices alone
_NOT_SHARED = (MANIFEST, CONVERTED_FROM)  # of this project's own folders


def write_model(source: Source, folder: Path, after: Callable[[Path], object]) -> None:
    """Write the whole model, with adapters merged, as a folder of safetensors of a stock transformers class.

    after: called with the unfinished folder, to check and to describe it; if it raises, nothing is written. Raises
    RunError, one sentence, for a source that is no AR model.
    """
    if source.kind == "draft":
        raise RunError(
            f"{source.given} is a draft adapter, which leaves the weights of its base as they are, so there is no "
            "model to write; export it with --to adapter."
        )
    _publish(folder, lambda unfinished: _model(source, unfinished), after)


def write_adapter_folder(source: Source, folder: Path, after: Callable[[Path], object]) -> None:
    """Write the adapter as a PEFT folder. A LoRA gets a subfolder FOR_SERVERS, see `write_server_lora`.

    after: as in `write_model`. Raises RunError for a whole model.
    """
    if source.kind == "model":
        raise RunError(f"{source.given} is a whole model without an adapter; export it with --to hf.")
    _publish(folder, lambda unfinished: _adapter(source, unfinished), after)


def _model(source: Source, target: Path) -> None:
    if source.checkpoint is not None:
        write_checkpoint(source.run, source.checkpoint, target)
        return
    if source.run is not None:
        _copy(source.folder, target)
        return
    described = nb.describe(source.given)
    stored = stored_quantization(described)
    if stored is not None:
        raise RunError(
            f"The weights of {source.given} are quantised ({stored}), and other programs read plain weights here; "
            "export the checkpoint that it was made from."
        )
    dtype = getattr(torch, described.saved_dtype)
    load_base(source.given, dtype, device="cpu").save(target, dtype)
    card = source.folder / "README.md"
    if source.kind == "model" and card.is_file():
        shutil.copyfile(card, target / card.name)


def _adapter(source: Source, target: Path) -> None:
    if source.kind == "draft":
        if source.checkpoint is not None:
            write_checkpoint(source.run, source.checkpoint, target)
        else:
            _copy(source.folder, target)
        return
    if source.checkpoint is not None:
        write_lora(source.run, source.checkpoint, target)
    else:
        _copy(source.folder if source.run is None else source.run / "adapter", target)
    write_server_lora(target, target / FOR_SERVERS)


def write_server_lora(adapter: Path, folder: Path) -> None:
    """Write the A and B matrices of a LoRA alone, which servers load: vLLM refuses other trained values, such as the
    embedding of MASK that block diffusion needs and AR decoding never reads.

    Raises RunError for an adapter without such matrices.
    """
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        names = [name for name in file.keys() if ".lora_A." in name or ".lora_B." in name]  # noqa: SIM118
        tensors = {name: file.get_tensor(name) for name in names}
    if not tensors:
        raise RunError(f"{adapter} holds no LoRA matrices; give an adapter that was trained with lora.")
    config: dict[str, Any] = read_json(adapter, ADAPTER_CONFIG) | {"trainable_token_indices": None}
    folder.mkdir()
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and path.name not in _NOT_SHARED and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)


def _publish(folder: Path, write: Callable[[Path], None], after: Callable[[Path], object]) -> None:
    def both(unfinished: Path) -> None:
        write(unfinished)
        after(unfinished)

    publish_export(folder, both)
