"""end.json in a run's folder: how its latest start ended. Written by the trainer, read by a job's runner.

It imports nothing but the standard library, so that the runner stays small.
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
    """finished: the model in final/ is whole. failed: an error of ours, one sentence. crashed: any other exception."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Ending:
    """The content of end.json."""

    outcome: Outcome
    kind: FailureKind | None = None  # of a failure or a crash
    step: int | None = None  # of a stopped run: its last step, which is saved; None if it could not save
    message: str = ""  # what the trainer printed as its error


def read_ending(run: Path) -> Ending | None:
    """The ending in a run's folder; None where the trainer has written none that can be read."""
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
    """Write down how the run in the block ends. The ending of an earlier start is removed first.

    It makes no folder, and leaves one alone that holds another run or other files. Of the processes of a run, the
    first one writes. A disk without room for the file is no error: the run ends as it would have.
    """
    writes = int(os.environ.get("RANK", "0")) == 0 and _is_this_runs(run, resume)
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
            _write(run / END, ending)


def _is_this_runs(run: Path, resume: bool) -> bool:
    try:
        if resume:
            return (run / "recipe.yaml").is_file()
        return not run.exists() or all(path.name == END for path in run.iterdir())
    except OSError:  # a file, or a folder that cannot be read
        return False


def _write(path: Path, ending: Ending) -> None:
    """Write the file whole or not at all."""
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(ending)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
