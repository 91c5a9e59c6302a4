"""A checkpoint of the hub as a folder on disk: from the local hub cache, or downloaded."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nbdiff_engine.errors import CheckpointError
from nbdiff_engine.model.weight_files import is_download_complete

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_REPLY_SECONDS = 5.0

_NAME = re.compile(
    rf"(?P<id>{HUB_ID.pattern})(?:/(?P<file>\w[\w.-]*(?:/\w[\w.-]*)*\.gguf))?(?:@(?P<revision>[\w./-]+))?"
)
_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
# consolidated: the same weights a second time, as Mistral and Meta publish them. Folders: other formats of the weights.
_NOT_NEEDED = ["consolidated*", "*/*"]
_PARTS = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class HubName:
    """owner/name, with a GGUF file of the repository and a revision (branch, tag or commit) where they are given."""

    id: str
    file: str | None
    revision: str | None

    @classmethod
    def of(cls, text: str) -> Self | None:
        """owner/name, owner/name@revision, owner/name/file.gguf or both; None for any other text."""
        found = _NAME.fullmatch(text)
        return None if found is None else cls(found["id"], found["file"], found["revision"])

    def __str__(self) -> str:
        return self.id + (f"/{self.file}" if self.file else "") + (f"@{self.revision}" if self.revision else "")


def is_cached(name: HubName) -> bool:
    """Whether the local hub cache has a config of this name."""
    return isinstance(huggingface_hub.try_to_load_from_cache(name.id, "config.json", revision=name.revision), str)


def from_hub(name: HubName) -> Path:
    """The snapshot of a checkpoint, or one GGUF file; downloads it if there is none and the hub can be reached.

    Raises CheckpointError with one sentence.
    """
    cached = _cached(name)
    if cached is not None:
        return cached
    not_here = f"The model {str(name)!r} is not in the local hub cache"
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"{not_here}, and HF_HUB_OFFLINE is set; download it first, or give a local folder.")
    if not hub_answers():
        raise CheckpointError(f"{not_here}, and the hub cannot be reached; give a local folder instead.")
    try:
        files = huggingface_hub.HfApi().list_repo_files(name.id, revision=name.revision)
        file = name.file or _only_gguf(name, files)
        if file is not None:
            return Path(huggingface_hub.hf_hub_download(name.id, file, revision=name.revision))
        return _snapshot(name)
    except GatedRepoError as error:  # before RepositoryNotFoundError, of which it is one
        raise CheckpointError(
            f"The model {name.id!r} is gated: accept its licence at {constants.ENDPOINT}/{name.id}, log in with "
            "'hf auth login' (or set HF_TOKEN), and load it again."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"The hub's model {name.id!r} has no revision {name.revision!r}.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{not_here}, and the hub has no public model of that name; for a private one, log in with 'hf auth login'."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(f"{not_here}, and its download failed: {type(error).__name__}. Try again.") from error


def hub_answers() -> bool:
    """Whether the hub answers a short request. Ask before a download: its client retries for most of a minute."""
    try:
        huggingface_hub.utils.get_session().head(constants.ENDPOINT, timeout=HUB_REPLY_SECONDS)
    except Exception:  # the hub's client and the network raise many kinds
        return False
    return True


def cached_checkpoints() -> dict[str, Path]:
    """The complete checkpoints of the local hub cache: hub id, or owner/name/file.gguf, to its folder or file. Does not
    connect to the hub."""
    found: dict[str, Path] = {}
    for place in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        hub_id = place.name.removeprefix("models--").replace("--", "/", 1)
        if not HUB_ID.fullmatch(hub_id) or (folder := _newest_snapshot(place)) is None:
            continue
        if is_download_complete(folder):
            found[hub_id] = folder
        else:
            found |= {f"{hub_id}/{file.name}": file for file in sorted(folder.glob("*.gguf")) if file.is_file()}
    return found


def _newest_snapshot(place: Path) -> Path | None:
    """The snapshot of the main branch in a repository's folder of the cache."""
    try:
        folder = place / "snapshots" / (place / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return folder if folder.is_dir() else None


def _snapshot(name: HubName, local: bool = False) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            name.id,
            revision=name.revision,
            local_files_only=local,
            allow_patterns=_FILES,
            ignore_patterns=_NOT_NEEDED,
        )
    )


def _cached(name: HubName) -> Path | None:
    """What the local hub cache has of a name, if that is complete."""
    if name.file is not None:
        found = huggingface_hub.try_to_load_from_cache(name.id, name.file, revision=name.revision)
        return Path(found) if isinstance(found, str) else None
    try:
        folder = _snapshot(name, local=True)
    except LocalEntryNotFoundError:
        return None
    if is_download_complete(folder):
        return folder
    gguf = sorted(folder.glob("*.gguf"))
    return gguf[0] if len(gguf) == 1 and not any(folder.glob("*.safetensors")) else None


def _only_gguf(name: HubName, files: list[str]) -> str | None:
    """The GGUF file of a repository without safetensors; None for a repository with them. Raises CheckpointError."""
    if any(file.endswith(".safetensors") for file in files):
        return None
    choices = sorted(file for file in files if file.endswith(".gguf") and not _PARTS.search(file))
    if len(choices) > 1:
        raise CheckpointError(
            f"The hub's model {name.id!r} has {len(choices)} GGUF files; name one of them: "
            f"{', '.join(f'{name.id}/{file}' for file in choices[:8])}{' ...' if len(choices) > 8 else ''}."
        )
    return choices[0] if choices else None
