"""What can go wrong in a training run, each as one sentence. Exit code 2 at the command line, as in the engine."""

from nbdiff_engine.errors import NBDiffError
from training.failure_kind import FailureKind


class TrainingError(NBDiffError):
    """Base of this package's errors. kind: given where the error is raised, if more is known than the class says."""

    default_kind = FailureKind.OTHER

    def __init__(self, message: str, kind: FailureKind | None = None):
        super().__init__(message)
        self.kind = self.default_kind if kind is None else kind


class DataError(TrainingError):
    """Training data is missing, empty, or not of the shape that was named."""


class RecipeError(TrainingError):
    """A setting of a recipe is out of its range, unknown, or does not fit the others."""

    default_kind = FailureKind.BAD_SETTING


class RunError(TrainingError):
    """A run cannot start, go on or be saved."""
