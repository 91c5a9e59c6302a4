"""The manifest of a checkpoint's folder: the size and SHA-256 of every file, to detect a damaged checkpoint.

This module does not import torch, so that programs which only check a folder start fast.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def is_complete(folder: Path) -> bool:
    """Whether every file of the manifest exists with its size and SHA-256."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(facts_of(folder / name) == facts for name, facts in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest as `write_manifest` writes it, also if its files have changed since then."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return bool(files) and all("sha256" in facts for facts in files.values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def write_manifest(folder: Path, files: Iterable[Path]) -> Path:
    """Write the manifest of these files of a folder, and return its path. Raises OSError if it cannot be written."""
    facts = {path.relative_to(folder).as_posix(): facts_of(path) for path in files}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": facts}, indent=1) + "\n", encoding="utf-8")
    return manifest


def facts_of(path: Path) -> dict[str, Any]:
    """The entry of a file in the manifest. Raises OSError if the file cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
