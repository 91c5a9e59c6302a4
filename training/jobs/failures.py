"""How a run ended, from its exit code, its last lines and its folder, and what to do about it."""

import contextlib
import re
import shutil
import signal
from pathlib import Path

from training.jobs import states
from training.jobs.places import log_of, run_of
from training.jobs.progress import latest_start
from training.run.manifest import is_whole

_LINES = 60  # of a log's end that are searched for what went wrong
_ROOM = 1 << 20  # bytes: with less left, the disk counts as full

_LESS_MEMORY = (
    "lower optimisation.rows or optimisation.packed_length, set optimisation.gradient_checkpointing=true, or train "
    "with lora; raise optimisation.accumulation to keep the batch"
)
_NO_MEMORY = re.compile(
    r"MemoryError|out of memory|OutOfMemoryError|can't allocate memory|Cannot allocate memory|bad_alloc"
)
_DISK_FULL = re.compile(r"disk is full|No space left on device|[Qq]uota exceeded|File too large|os error (28|122|27)\b")
_NOT_A_NUMBER = re.compile(r"The loss of step \d+ is .*the run is stopped")
_BAD_ROW = re.compile(r"\b(Row|Line) \d+ of ")
_MISSING = re.compile(
    r"There is no (file|recipe)|No such file or directory|FileNotFoundError|No data |No model |has no config\.json"
    r"|is not in the local"
)
_SAVED = re.compile(r"stopped after step (\d+), which is saved")


def verdict(code: int | None, folder: Path, stopping: bool, killed: bool, grace: float) -> tuple[str, str]:
    """The state that a run has ended in, and the reason.

    code: exit status as subprocess has it, negative for a signal; None where nobody saw it end
    stopping: it was told to end; killed: it was then killed by us, after `grace` seconds
    """
    lines = latest_start(log_of(folder))[-_LINES:]
    if code in (0, None) and is_whole(run_of(folder) / "final"):
        return states.FINISHED, ""
    if code == 0:
        return states.FAILED, "it ended without an error, but the model in its final/ is missing or not whole"
    if killed:
        return states.STOPPED, f"killed, since it had not ended {grace:g} s after it was told to; resume it to go on"
    saved = _SAVED.search("\n".join(lines))
    unheard = stopping and code is None and not _sentence(lines)
    if saved or unheard or code in _TOLD_TO_END:
        by_whom = "" if stopping else "told to end from outside; "
        return states.STOPPED, by_whom + (
            f"stopped after step {saved[1]}, which is saved"
            if saved
            else "stopped before it could save; what it had saved before is kept"
        )
    return states.FAILED, named(code, lines, _is_full(folder))


_TOLD_TO_END = {sign * number + base for number in (2, 15) for sign, base in ((-1, 0), (1, 128))}


def named(code: int | None, lines: list[str], disk_is_full: bool = False) -> str:
    """What went wrong, by its name where it has one. lines: the last that the trainer printed."""
    text = "\n".join(lines)
    sentence = _sentence(lines)
    if _NOT_A_NUMBER.search(sentence):
        return f"NaN loss: {sentence}"
    if _DISK_FULL.search(text) or (disk_is_full and not sentence):
        return f"disk full: {sentence or 'make room and resume it'}"
    if not sentence and (code in (-signal.SIGKILL, 128 + signal.SIGKILL)):
        return f"out of memory, most likely: it was killed by signal 9, and not from here; {_LESS_MEMORY}"
    if _NO_MEMORY.search(text):
        return f"out of memory: {_LESS_MEMORY}"
    if _BAD_ROW.search(sentence):
        return f"bad data row: {sentence}"
    if _MISSING.search(sentence or "\n".join(lines[-3:])):
        return f"missing file: {sentence or _last(lines)}"
    if sentence:
        return sentence
    if code is None:
        return f"it ended while nothing watched it, and said no reason{_and_last(lines)}; resume it to go on"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}{_and_last(lines)}"
    return f"it ended with exit code {code}{_and_last(lines)}"


def _sentence(lines: list[str]) -> str:
    """What the trainer said was wrong, as every command of the project says it; empty if it did not."""
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")


def _and_last(lines: list[str]) -> str:
    return f"; its last line: {_last(lines)}" if _last(lines) else ""


def _last(lines: list[str]) -> str:
    line = next((line for line in reversed(lines) if line.strip()), "").strip()
    return line if len(line) <= 300 else line[:297] + "..."


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False
