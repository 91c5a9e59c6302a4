"""The number of steps of a run whose length is given in epochs."""

import logging
import math

from training.data.dataset import ENDLESS
from training.data.documents import DocumentSource
from training.data.packing import Cursor, Packer
from training.errors import RecipeError
from training.model.base import TrainedModel
from training.recipe.recipe import Recipe
from training.run.step_reader import packer_of

logger = logging.getLogger(__name__)

_READ = 20_000  # documents that are packed to count steps; for more, the count is scaled


def with_steps(recipe: Recipe, model: TrainedModel, train: DocumentSource, processes: int) -> Recipe:
    """The recipe with `max_steps` instead of `epochs`, counted by packing the documents as the run does.

    Raises RecipeError for a source without an end.
    """
    settings = recipe.optimisation
    if settings.epochs is None:
        return recipe
    count = len(train)
    if count >= ENDLESS:
        raise RecipeError(
            f"optimisation.epochs is {settings.epochs:g}, but {train.name} is generated without an end; "
            "set data.limit, or give optimisation.max_steps instead."
        )
    rows = settings.rows * settings.accumulation * processes
    per_step = documents_per_step(packer_of(recipe, model, train), rows, min(count, _READ))
    steps = max(1, math.ceil(settings.epochs * count / per_step - 1e-9))
    logger.info(
        "%g epochs of %d documents are %s%d steps of %d rows",
        settings.epochs,
        count,
        "" if count <= _READ else "about ",
        steps,
        rows,
    )
    changed = settings.model_copy(update={"max_steps": steps, "epochs": None})
    return recipe.model_copy(update={"optimisation": changed})


def documents_per_step(packer: Packer, rows: int, documents: int) -> float:
    """The mean number of documents in a batch of `rows` rows, over the batches of the first `documents` documents."""
    cursor, steps = Cursor(), 0
    while cursor.document < documents:
        _, cursor = packer.batch(cursor, rows)
        steps += 1
    return cursor.document / steps
