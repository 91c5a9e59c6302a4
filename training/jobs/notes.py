"""The note of a job: what a person writes about a run, in a file of the job's folder."""

from pathlib import Path

from training.jobs.job_errors import JobError

LONGEST_NOTE = 2000  # characters


def read_note(folder: Path) -> str:
    """The note in a job's folder; "" without one."""
    try:
        return _file(folder).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def write_note(folder: Path, text: str) -> None:
    """Keep a note; an empty one deletes it. Raises JobError for a long text, or if it cannot be written."""
    text = text.strip()
    if len(text) > LONGEST_NOTE:
        raise JobError(f"The note has {len(text):,} characters; at most {LONGEST_NOTE:,} are kept.")
    file = _file(folder)
    try:
        if text:
            file.write_text(text, encoding="utf-8")
        else:
            file.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: half of a surrogate pair
        raise JobError(f"The note cannot be kept in {file}: {error}.") from error


def _file(folder: Path) -> Path:
    return folder / "note.txt"
