"""From the exception that ends a run to the content of end.json."""

import errno

from nbdiff_engine.errors import NBDiffError, SettingError, brief_text
from nbdiff_engine.memory_errors import is_out_of_memory
from training.errors import TrainingError
from training.failure_kind import FailureKind
from training.run.end_file import Ending, Outcome
from training.run.interruption import Interrupted

_OS_KINDS = {
    errno.ENOSPC: FailureKind.DISK_FULL,
    errno.EDQUOT: FailureKind.DISK_FULL,
    errno.EFBIG: FailureKind.DISK_FULL,
    errno.ENOMEM: FailureKind.OUT_OF_MEMORY,
}


def ending_of(error: BaseException) -> Ending:
    """The ending of a run that was ended by an exception."""
    if isinstance(error, Interrupted):
        return Ending(Outcome.STOPPED, step=error.step or None, message=str(error))
    if isinstance(error, KeyboardInterrupt):
        return Ending(Outcome.STOPPED)
    if isinstance(error, NBDiffError):
        return Ending(Outcome.FAILED, kind_of(error), message=str(error))
    message = f"{type(error).__name__}: {brief_text(str(error), 300)}"
    return Ending(Outcome.CRASHED, kind_of(error), message=message)


def kind_of(error: BaseException) -> FailureKind:
    """Why a run failed: the kind of the exception, or of the first of its causes that has one."""
    cause: BaseException | None = error
    while cause is not None:
        kind = _kind_without_cause(cause)
        if kind is not FailureKind.OTHER:
            return kind
        cause = cause.__cause__
    return FailureKind.OTHER


def _kind_without_cause(error: BaseException) -> FailureKind:
    if isinstance(error, TrainingError):
        return error.kind
    if isinstance(error, SettingError):
        return FailureKind.BAD_SETTING
    if isinstance(error, FileNotFoundError):  # some libraries raise it without a number
        return FailureKind.MISSING_FILE
    if isinstance(error, OSError):
        return _OS_KINDS.get(error.errno, FailureKind.OTHER)
    return FailureKind.OUT_OF_MEMORY if is_out_of_memory(error) else FailureKind.OTHER
