"""end.json in a run's folder: how the last process of the run ended. The trainer writes it; a job's runner reads it.

This module imports no library outside this project, so that the runner needs little memory.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from training.failure_kind import FailureKind

END = "end.json"


class Outcome(StrEnum):
    """finished: final/ is complete. failed: an NBDiffError, with one sentence. crashed: any other exception.
    lost: the Ray cluster that ran it does not answer; written by the process that followed it.
    """

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    CRASHED = "crashed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Ending:
    """The content of end.json."""

    outcome: Outcome
    kind: FailureKind | None = None  # of a failure or a crash
    step: int | None = None  # the saved last step of a stopped run; None if it could not save
    message: str = ""  # the error that the trainer printed


def is_first_process() -> bool:
    """Whether this is the process of rank 0, which writes what a run of several processes writes once."""
    return int(os.environ.get("RANK", "0")) == 0


def read_ending(run: Path) -> Ending | None:
    """The ending in a run's folder; None if there is no end.json, or it cannot be read."""
    try:
        fields = json.loads((run / END).read_bytes())
        kind, step, message = fields["kind"], fields["step"], fields["message"]
        if not (isinstance(step, int | None) and isinstance(message, str)):
            return None
        return Ending(Outcome(fields["outcome"]), None if kind is None else FailureKind(kind), step, message)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextlib.contextmanager
def ending_written(run: Path, resume: bool, ending_of: Callable[[BaseException], Ending]) -> Iterator[None]:
    """Write how the run inside the `with` block ends. An older end.json is removed first.

    Only the process of rank 0 writes. No folder is created, and a folder with another run or other files is not
    changed. If the file cannot be written, this is ignored, so that the error of the run is not hidden.
    """
    writes = is_first_process() and _belongs_to_run(run, resume)
    if writes:
        with contextlib.suppress(OSError):
            (run / END).unlink()
    ending = None
    try:
        yield
        ending = Ending(Outcome.FINISHED)
    except (Exception, KeyboardInterrupt) as error:
        ending = ending_of(error)
        raise
    finally:
        if writes and ending is not None and run.is_dir():
            write_ending(run, ending)


def _belongs_to_run(folder: Path, resume: bool) -> bool:
    """Whether a folder is that of the run to resume, or empty or absent for a new run."""
    try:
        if resume:
            return (folder / "recipe.yaml").is_file()
        return not folder.exists() or all(path.name == END for path in folder.iterdir())
    except OSError:  # a file, or a folder that cannot be read
        return False


def write_ending(run: Path, ending: Ending) -> None:
    """Write the file completely or not at all."""
    path = run / END
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(ending)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
