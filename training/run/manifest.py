"""The manifest of a checkpoint's folder: every file with its size and content, so that a damaged one is recognised.

Kept apart from the tensors, so that what only looks at a folder need not import torch.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def is_whole(folder: Path) -> bool:
    """Whether every file of the manifest is there with its size and content."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(facts_of(folder / name) == facts for name, facts in files.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def write_manifest(folder: Path, files: Iterable[Path]) -> Path:
    """Write the manifest of a folder, which names these files of it; its path. Raises OSError as the disk does."""
    facts = {path.relative_to(folder).as_posix(): facts_of(path) for path in files}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": facts}, indent=1) + "\n", encoding="utf-8")
    return manifest


def facts_of(path: Path) -> dict[str, Any]:
    """What a manifest says of a file. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
