"""Read the logs of a job while its trainer writes them. An incomplete last line is skipped."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

START = "# started "  # a log line with this prefix is written before the output of each start
_TAIL = 64 * 1024  # bytes that are read from the end of a log
_FEW_LINES = 8 * 1024  # bytes, enough for some lines of metrics.jsonl


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a log, one per complete line; empty without a log."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return []
    return [found for line in text.split("\n") if (found := _json_object(line)) is not None]


def last_json_lines(path: Path) -> list[dict[str, Any]]:
    """The newest JSON objects of a log, those in its last 64 KiB."""
    return [found for line in _end_of(path).split("\n") if (found := _json_object(line)) is not None]


def last_step(metrics: Path) -> int:
    """The step in the last complete line of metrics.jsonl; 0 before the first line."""
    for line in reversed(_end_of(metrics, _FEW_LINES).split("\n")):
        found = _json_object(line)
        if found is not None and isinstance(step := found.get("step"), int):
            return step
    return 0


def steps_of(run: Path) -> int | None:
    """The steps in the recipe.yaml of a run, where they are counted if the job was given epochs; None before that."""
    try:
        fields = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        steps = fields["optimisation"]["max_steps"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError):
        return None
    return steps if isinstance(steps, int) else None


def log_lines(log: Path, count: int | None = None) -> list[str]:
    """The last `count` lines of a log; None: all lines in its last 64 KiB.

    Of a progress bar, only the last state is kept.
    """
    lines = [_final_state(line) for line in _end_of(log).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines if count is None else lines[max(len(lines) - count, 0) :]


def latest_start(log: Path) -> list[str]:
    """The output of the latest start, as far as it is in the last 64 KiB of the log."""
    lines = log_lines(log)
    starts = [number for number, line in enumerate(lines) if line.startswith(START)]
    return lines[starts[-1] + 1 :] if starts else lines


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _final_state(line: str) -> str:
    return next((part for part in reversed(line.split("\r")) if part.strip()), "")


def _end_of(path: Path, most: int = _TAIL) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
