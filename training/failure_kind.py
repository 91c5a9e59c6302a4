"""Why a run failed, for a program to read. It imports nothing, so that a job's runner can."""

from enum import StrEnum


class FailureKind(StrEnum):
    """The values are stored in a run's end.json."""

    NAN_LOSS = "nan_loss"
    DISK_FULL = "disk_full"
    OUT_OF_MEMORY = "out_of_memory"
    BAD_ROW = "bad_row"
    MISSING_FILE = "missing_file"
    BAD_SETTING = "bad_setting"
    OTHER = "other"
