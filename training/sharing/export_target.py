"""The folder of an export: what it may replace, and how it is published."""

from collections.abc import Callable
from pathlib import Path

from nbdiff_engine.errors import brief_text
from training.errors import RunError
from training.run.checkpointing import RETIRED, publish
from training.run.manifest import has_manifest


def publish_export(folder: Path, write: Callable[[Path], None]) -> None:
    """Create the folder of an export with what `write` puts into it, complete or not at all; an older one is replaced.

    Raises RunError, one sentence, before anything is written if something else is there, and if the folder cannot be
    written or a file that is exported disappears.
    """
    for path in (folder, folder.with_name(folder.name + RETIRED)):
        _require_export_or_nothing(path)

    def written(unfinished: Path) -> None:
        try:
            write(unfinished)
        except FileNotFoundError as error:
            raise RunError(
                f"{error.filename or 'A file'} disappeared during the export; if the run continues, export its newest "
                "checkpoint."
            ) from error

    try:
        publish(folder, written)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise RunError(
            f"The export cannot be written to {folder} ({brief_text(reason, 160)}); choose another --output."
        ) from error


def _require_export_or_nothing(path: Path) -> None:
    """Raise RunError for what an export would delete and no export has written."""
    if path.is_symlink():
        what = "is a link"
    elif not path.exists():
        return
    elif not path.is_dir():
        what = "is a file"
    elif has_manifest(path):
        return
    else:
        what = "is a folder without an export's manifest.json"
    raise RunError(f"{path} {what}, so an export does not replace it; move it away, or choose another --output.")
