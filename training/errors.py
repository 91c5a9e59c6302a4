"""Errors of training: one sentence each, and exit code 2 on the command line, as in the engine."""

from collections.abc import Sequence

from nbdiff_engine.errors import NBDiffError
from training.failure_kind import FailureKind


class TrainingError(NBDiffError):
    """Base of this package's errors.

    kind: if None, the default of the class. give: the options that are missing, as ("base", "max_steps"); the sentence
    ends with "; give --base and --max-steps.", and `message` is the part before it.
    """

    default_kind = FailureKind.OTHER

    def __init__(self, message: str, kind: FailureKind | None = None, give: Sequence[str] = ()):
        options = " and ".join(f"--{name.replace('_', '-')}" for name in give)
        super().__init__(f"{message}; give {options}." if give else message)
        self.kind = self.default_kind if kind is None else kind
        self.message, self.give = message, tuple(give)


class DataError(TrainingError):
    """Training data is missing, empty, or not in the given format."""


class RecipeError(TrainingError):
    """A setting of a recipe is out of range, unknown, or inconsistent with other settings."""

    default_kind = FailureKind.BAD_SETTING


class RunError(TrainingError):
    """A run cannot start, continue or be saved."""
