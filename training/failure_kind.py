"""Machine-readable kinds of failure. No heavy imports, because a job's runner imports this module."""

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
