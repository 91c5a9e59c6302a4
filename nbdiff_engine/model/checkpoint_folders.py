"""The folder of a checkpoint: of a bundled or packaged name, a local path, or a hub id (local cache, or downloaded).

A GGUF file becomes the folder of its conversion to safetensors.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from nbdiff_engine.bundled_files import ASSETS
from nbdiff_engine.errors import CheckpointError, brief, brief_text
from nbdiff_engine.model.gguf_files import converted
from nbdiff_engine.model.hub_checkpoints import HubName, from_hub, is_cached
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS, packaged_folder
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, is_adapter

logger = logging.getLogger(__name__)

BUNDLED_FOLDER = ASSETS / "models"
_ADAPTER_FOLDER = ASSETS / "adapters"


def bundled_models() -> dict[str, Path]:
    """Name and folder of every checkpoint that is part of the project."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED_FOLDER.glob("*/config.json"))}


def bundled_adapters() -> dict[str, Path]:
    """Name and folder of every draft adapter that is part of the project. The name is that of its base, and -drafts."""
    return {f"{path.parent.name}-drafts": path.parent for path in sorted(_ADAPTER_FOLDER.glob(f"*/{ADAPTER_CONFIG}"))}


def label_of(name: str | os.PathLike[str], folder: Path) -> str:
    """The name of a checkpoint in messages: its bundled name if the folder is a bundled one, else `name` as given."""
    return folder.name if folder.parent == BUNDLED_FOLDER else str(name)


def find_checkpoint(name: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint, or of an adapter. Downloads it from the hub only if no local one has this name.

    A GGUF file, a folder that holds nothing else, and a hub repository of such files are converted to a folder of
    safetensors first, once (`gguf_files`).

    Raises CheckpointError.
    """
    if not isinstance(name, (str, os.PathLike)) or not isinstance(text := os.fspath(name), str):
        raise CheckpointError(f"The model is {brief(name)}; give a bundled name, a folder or a hub id.")
    if not text.strip():
        raise CheckpointError("The model name is empty; give a bundled name, a folder or a hub id.")
    bundled = bundled_models() | bundled_adapters()
    if text in bundled:
        return bundled[text]
    if text in PACKAGED_MODELS:
        return packaged_folder(text)
    try:
        path = Path(text).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, the home of an unknown user, or a NUL in it
        is_folder = is_file = False
    hub_name = HubName.of(text)
    if is_folder:
        if hub_name is not None and is_cached(hub_name):
            logger.warning(
                "%s is read from the local folder %s; the hub's model of that name is in the hub cache too. "
                "Rename the folder to load that one.",
                text,
                path.resolve(),
            )
        return _local_folder(path, text, hub_name is not None)
    if is_file:
        if path.suffix.lower() == ".gguf":
            return converted(path.resolve(), text)
        raise CheckpointError(f"{text} is a file; give the folder that holds the checkpoint's config.json.")
    if hub_name is not None:
        found = from_hub(hub_name)
        return converted(found, text) if found.suffix == ".gguf" else found
    known = ", ".join([*bundled, *PACKAGED_MODELS])
    raise CheckpointError(
        f"No model {brief(text)}: not a bundled name ({known}), not a folder, and not a hub id (owner/name)."
    )


def _local_folder(path: Path, text: str, may_be_hub_id: bool) -> Path:
    if ((path / "config.json").is_file() and any(path.glob("*.safetensors"))) or is_adapter(path):
        return path.resolve()
    gguf = sorted(each for each in path.glob("*.gguf") if each.is_file())
    if len(gguf) > 1:
        raise CheckpointError(
            f"The folder {text} holds {len(gguf)} GGUF files; give one of them: "
            f"{', '.join(str(path / each.name) for each in gguf[:8])}{' ...' if len(gguf) > 8 else ''}."
        )
    if gguf:
        return converted(gguf[0].resolve(), text)
    if (path / "config.json").is_file():
        return path.resolve()
    shadows = " While this folder exists, the hub's model of that name is not looked for." if may_be_hub_id else ""
    raise CheckpointError(
        f"The folder {text} has no config.json and no {ADAPTER_CONFIG}; "
        f"give the folder that holds the checkpoint.{shadows}"
    )


def read_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON object from a file of a checkpoint's folder. Raises CheckpointError if the file holds no JSON object."""
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({brief_text(str(error), 120)}); the checkpoint is damaged."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no JSON object; the checkpoint is damaged.")
    return config
