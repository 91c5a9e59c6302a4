"""The state and reason of an ended run, from the end.json that its trainer wrote, and what the user can do.

Without an end.json (a kill, a crash of the interpreter, a full disk), the exit code and the free disk space decide. The
last line of the log is then shown, but never interpreted.
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
from training.run.manifest import is_complete

_MIN_FREE = 1 << 20  # bytes; with less free space, the disk counts as full

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
_STOP_CODES = {code for number in (signal.SIGINT, signal.SIGTERM) for code in (-number, 128 + number)}


def verdict(code: int | None, folder: Path, stopping: bool, killed: bool, grace: float) -> tuple[str, str]:
    """The final state of a run, and the reason.

    code: exit status as in subprocess, negative for a signal; None if it is unknown
    stopping: the run was asked to stop. killed: we then killed it, after `grace` seconds
    """
    if code in (0, None) and is_complete(run_of(folder) / "final"):
        return states.FINISHED, ""
    if code == 0:
        return states.FAILED, "it ended without an error, but the model in its final/ is missing or incomplete"
    if killed:
        return states.STOPPED, f"killed: it still ran {grace:g} s after the stop signal; resume it to continue"
    ending = read_ending(run_of(folder))
    if ending is not None and ending.outcome is Outcome.LOST:
        return states.LOST, ending.message
    saved = ending is not None and ending.outcome is Outcome.STOPPED and ending.step is not None
    unseen_stop = stopping and code is None and ending is None
    if saved or unseen_stop or code in _STOP_CODES:
        by_whom = "" if stopping else "signalled by another process; "
        return states.STOPPED, by_whom + (
            f"stopped after step {ending.step}, which is saved"
            if saved
            else "stopped before it could save; earlier checkpoints are kept"
        )
    last = _last(latest_start(log_of(folder)))
    if ending is not None and ending.outcome in (Outcome.FAILED, Outcome.CRASHED):
        return states.FAILED, explained(ending, code, last)
    return states.FAILED, unexplained(code, last, _is_full(folder))


def explained(ending: Ending, code: int | None, last: str = "") -> str:
    """The reason of a failure or a crash that the trainer recorded."""
    expected = ending.outcome is Outcome.FAILED
    if ending.kind is FailureKind.OUT_OF_MEMORY:
        return f"out of memory: {_LESS_MEMORY}"
    if ending.kind is FailureKind.DISK_FULL and not expected:
        return "disk full: free some space and resume it"
    if ending.kind in _NAMES:
        return f"{_NAMES[ending.kind]}: {ending.message}"
    return ending.message if expected else unexplained(code, ending.message or last)


def unexplained(code: int | None, last: str, disk_is_full: bool = False) -> str:
    """The reason of an end that the trainer did not record. last: the last line of its log, shown unchanged."""
    and_last = f"; its last line: {last}" if last else ""
    if disk_is_full:
        return f"disk full: free some space and resume it{and_last}"
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return f"out of memory, most likely: another process killed it with signal 9; {_LESS_MEMORY}"
    if code is None:
        return f"it ended without a recorded reason while no runner watched it{and_last}; resume it to continue"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}{and_last}"
    return f"it ended with exit code {code}{and_last}"


def _last(lines: list[str]) -> str:
    line = next((line for line in reversed(lines) if line.strip()), "").strip()
    return line if len(line) <= 300 else line[:297] + "..."


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _MIN_FREE
    except OSError:
        return False
