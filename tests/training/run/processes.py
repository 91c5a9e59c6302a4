"""Runs of the command line in several gloo processes on this machine."""

from pathlib import Path

from tests import forked
from tests.training.runs import written
from training.recipe.recipe import Recipe


def adapt(recipe: Recipe, folder: Path, processes: int, *options: str, **environment: str) -> str:
    """Train a recipe to its end, in `folder`, and return the log."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = written(recipe, folder.parent / f"{folder.name}.yaml")
    arguments = ["adapt", "--recipe", str(file), "--output", str(folder), *options]
    done = forked.run_ranks("training", *arguments, processes=processes, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr
