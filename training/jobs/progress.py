"""What a job has written so far, read while it is being written: a last line cut in half is left out."""

import json
import os
from pathlib import Path
from typing import Any

START = "# started "  # begins the line of the log from which a start's own output follows
_TAIL = 64 * 1024  # bytes of a log that are looked at from its end
_FEW_LINES = 8 * 1024  # bytes that hold some lines of metrics.jsonl


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole JSON lines of a log that are objects; none where there is no log."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return []
    return [found for line in text.split("\n") if (found := _object(line)) is not None]


def last_step(metrics: Path) -> int:
    """The step of the last whole line of metrics.jsonl; 0 before the first."""
    for line in reversed(_end_of(metrics, _FEW_LINES).split("\n")):
        found = _object(line)
        if found is not None and isinstance(step := found.get("step"), int):
            return step
    return 0


def log_lines(log: Path, count: int | None = None) -> list[str]:
    """The last lines of a log (all that its last 64 KiB hold, or `count` of them).

    A progress bar rewrites its line: of each, what it showed last is kept.
    """
    lines = [_shown(line) for line in _end_of(log).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines if count is None else lines[max(len(lines) - count, 0) :]


def latest_start(log: Path) -> list[str]:
    """The lines that the latest start has printed, as far as the log's end holds them."""
    lines = log_lines(log)
    starts = [number for number, line in enumerate(lines) if line.startswith(START)]
    return lines[starts[-1] + 1 :] if starts else lines


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _shown(line: str) -> str:
    return next((part for part in reversed(line.split("\r")) if part.strip()), "")


def _end_of(path: Path, most: int = _TAIL) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
