"""How a run ended, from the end.json that its trainer has written, and what to do about it.

What no end.json explains (a kill, a crash of the interpreter, a disk without room for the file) follows from the exit
code and the room on the disk; the last line of the log is shown then, and decides nothing.
"""

import contextlib
import shutil
import signal
from pathlib import Path

from training.failure_kind import FailureKind
from training.jobs import states
from training.jobs.places import log_of, run_of
from training.jobs.progress import latest_start
from training.run.end_file import Ending, Outcome, read_ending
from training.run.manifest import is_whole

_ROOM = 1 << 20  # bytes: with less left, the disk counts as full

_LESS_MEMORY = (
    "lower optimisation.rows or optimisation.packed_length, set optimisation.gradient_checkpointing=true, or train "
    "with lora; raise optimisation.accumulation to keep the batch"
)
_NAMES = {
    FailureKind.NAN_LOSS: "NaN loss",
    FailureKind.DISK_FULL: "disk full",
    FailureKind.OUT_OF_MEMORY: "out of memory",
    FailureKind.BAD_ROW: "bad data row",
    FailureKind.MISSING_FILE: "missing file",
}
_TOLD_TO_END = {code for number in (signal.SIGINT, signal.SIGTERM) for code in (-number, 128 + number)}


def verdict(code: int | None, folder: Path, stopping: bool, killed: bool, grace: float) -> tuple[str, str]:
    """The state that a run has ended in, and the reason.

    code: exit status as subprocess has it, negative for a signal; None where nobody saw it end
    stopping: it was told to end; killed: it was then killed by us, after `grace` seconds
    """
    if code in (0, None) and is_whole(run_of(folder) / "final"):
        return states.FINISHED, ""
    if code == 0:
        return states.FAILED, "it ended without an error, but the model in its final/ is missing or not whole"
    if killed:
        return states.STOPPED, f"killed, since it had not ended {grace:g} s after it was told to; resume it to go on"
    ending = read_ending(run_of(folder))
    saved = ending is not None and ending.outcome is Outcome.STOPPED and ending.step is not None
    unseen_stop = stopping and code is None and ending is None
    if saved or unseen_stop or code in _TOLD_TO_END:
        by_whom = "" if stopping else "told to end from outside; "
        return states.STOPPED, by_whom + (
            f"stopped after step {ending.step}, which is saved"
            if saved
            else "stopped before it could save; what it had saved before is kept"
        )
    last = _last(latest_start(log_of(folder)))
    if ending is not None and ending.outcome in (Outcome.FAILED, Outcome.CRASHED):
        return states.FAILED, explained(ending, code, last)
    return states.FAILED, unexplained(code, last, _is_full(folder))


def explained(ending: Ending, code: int | None, last: str = "") -> str:
    """The reason of a failure or a crash that the trainer has written down."""
    foreseen = ending.outcome is Outcome.FAILED
    if ending.kind is FailureKind.OUT_OF_MEMORY:
        return f"out of memory: {_LESS_MEMORY}"
    if ending.kind is FailureKind.DISK_FULL and not foreseen:
        return "disk full: make room and resume it"
    if ending.kind in _NAMES:
        return f"{_NAMES[ending.kind]}: {ending.message}"
    return ending.message if foreseen else unexplained(code, ending.message or last)


def unexplained(code: int | None, last: str, disk_is_full: bool = False) -> str:
    """The reason of an end that the trainer has not written down. last: line of its log, shown as it is."""
    and_last = f"; its last line: {last}" if last else ""
    if disk_is_full:
        return f"disk full: make room and resume it{and_last}"
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return f"out of memory, most likely: it was killed by signal 9, and not from here; {_LESS_MEMORY}"
    if code is None:
        return f"it ended while nothing watched it, and said no reason{and_last}; resume it to go on"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}{and_last}"
    return f"it ended with exit code {code}{and_last}"


def _last(lines: list[str]) -> str:
    line = next((line for line in reversed(lines) if line.strip()), "").strip()
    return line if len(line) <= 300 else line[:297] + "..."


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _ROOM
    except OSError:
        return False
