"""The folder of a checkpoint: of a bundled name, a local path, or a hub id (from the local cache or downloaded)."""

import json
import os
import re
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from nbdiff_engine.bundled_files import ASSETS
from nbdiff_engine.errors import CheckpointError, brief, brief_text

BUNDLED_FOLDER = ASSETS / "models"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_REPLY_SECONDS = 5.0


def bundled_models() -> dict[str, Path]:
    """Name and folder of every checkpoint that is part of the project."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED_FOLDER.glob("*/config.json"))}


def label_of(name: str | os.PathLike[str], folder: Path) -> str:
    """The name of a checkpoint in messages: its bundled name if the folder is a bundled one, else `name` as given."""
    return folder.name if folder.parent == BUNDLED_FOLDER else str(name)


def find_checkpoint(name: str | os.PathLike[str]) -> Path:
    """The folder of a checkpoint. Downloads it from the hub only if no local checkpoint has this name.

    Raises CheckpointError.
    """
    if not isinstance(name, (str, os.PathLike)) or not isinstance(text := os.fspath(name), str):
        raise CheckpointError(f"The model is {brief(name)}; give a bundled name, a folder or a hub id.")
    if not text.strip():
        raise CheckpointError("The model name is empty; give a bundled name, a folder or a hub id.")
    bundled = bundled_models()
    if text in bundled:
        return bundled[text]
    try:
        path = Path(text).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, the home of an unknown user, or a NUL in it
        is_folder = is_file = False
    if is_folder:
        if not (path / "config.json").is_file():
            raise CheckpointError(f"The folder {text} has no config.json; give the folder that holds the checkpoint.")
        return path.resolve()
    if is_file:
        raise CheckpointError(f"{text} is a file; give the folder that holds the checkpoint's config.json.")
    if HUB_ID.fullmatch(text):
        return _from_hub(text)
    known = ", ".join(bundled) or "none"
    raise CheckpointError(
        f"No model {brief(text)}: not a bundled name ({known}), not a folder, and not a hub id (owner/name)."
    )


def _from_hub(hub_id: str) -> Path:
    """The local snapshot of a hub checkpoint; downloads it if there is none and the hub can be reached."""
    files = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
    try:
        local = Path(huggingface_hub.snapshot_download(hub_id, local_files_only=True, allow_patterns=files))
        if _is_whole(local):
            return local
    except LocalEntryNotFoundError:
        pass
    not_here = f"The model {hub_id!r} is not in the local hub cache"
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{not_here}, and HF_HUB_OFFLINE is set; download it first, or give a local folder.")
    try:
        # The client retries for most of a minute, so one short request first checks whether the hub answers.
        huggingface_hub.utils.get_session().head(constants.ENDPOINT, timeout=HUB_REPLY_SECONDS)
    except Exception as error:
        raise CheckpointError(f"{not_here}, and the hub cannot be reached; give a local folder instead.") from error
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=files))
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{not_here}, and the hub has no public model of that name.") from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{not_here}, and its download failed: {type(error).__name__}. Try again.") from error


def _is_whole(folder: Path) -> bool:
    """Whether a download is complete: it has its config and its weights, all shards if there is an index."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return all((folder / shard).is_file() for shard in shards)


def read_json(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON object from a file of a checkpoint's folder. Raises CheckpointError if the file holds no JSON object."""
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({brief_text(str(error), 120)}); the checkpoint is damaged."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no JSON object; the checkpoint is damaged.")
    return config
