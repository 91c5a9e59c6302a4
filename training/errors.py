"""What can go wrong in a training run, each as one sentence. Exit code 2 at the command line, as in the engine."""

from nbdiff_engine.errors import NBDiffError


class DataError(NBDiffError):
    """Training data is missing, empty, or not of the shape that was named."""


class RecipeError(NBDiffError):
    """A setting of a recipe is out of its range, unknown, or does not fit the others."""


class RunError(NBDiffError):
    """A run cannot start, go on or be saved."""
