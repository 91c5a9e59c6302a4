"""A run's model and data as far as they can be had without reading a weight: tokenizer, config, MASK."""

from pathlib import Path

import torch

from nbdiff_engine import describe
from nbdiff_engine.errors import brief
from training.data.data_settings import SELF
from training.data.documents import DocumentSource
from training.data.self_generated import DOCUMENTS_FILE
from training.errors import DataError, RecipeError
from training.model.base import TrainedModel, with_spec
from training.model.new_model import new_model, train_tokenizer
from training.planning.shapes import meta_network
from training.recipe.recipe import Recipe
from training.run.launch import open_documents, self_data_folder, tokenizer_texts

_TOKENIZER_DOCUMENTS = 500  # pretrain: enough to see what a tokenizer will be like


def open_without_weights(recipe: Recipe) -> tuple[TrainedModel, DocumentSource, str]:
    """The model on the meta device, the documents to train on, and a sentence about its MASK or its tokenizer.

    Raises NBDiffError where the run itself would not start.
    """
    model, said = _model(recipe)
    source, _ = open_documents(recipe, model, _self_written(recipe, model))
    return model, source, said


def _model(recipe: Recipe) -> tuple[TrainedModel, str]:
    """The model as the run sees it, on the meta device, and a sentence about its MASK."""
    if recipe.kind == "pretrain":
        few = min(_TOKENIZER_DOCUMENTS, recipe.network.tokenizer.documents)
        tokenizer_settings = recipe.network.tokenizer.model_copy(update={"documents": few})
        network_settings = recipe.network.model_copy(update={"tokenizer": tokenizer_settings})
        texts = tokenizer_texts(recipe.model_copy(update={"network": network_settings}))
        tokenizer = train_tokenizer(texts, recipe.network.tokenizer.vocab_size)
        with torch.device("meta"):
            model = new_model(recipe.network, tokenizer, recipe.seed, "a new network")
        return model, f"the tokenizer shown here has read {few} documents; the run's reads more"
    if recipe.base is None:
        raise RecipeError("The recipe names no base checkpoint; give one with --base.")
    described = describe(recipe.base)
    model = TrainedModel.of(described, meta_network(described.config, described.label))
    had = model.own_mask is not None
    objective = recipe.objective
    model = with_spec(model, recipe.blocks.b_max, objective.context, objective.token_shift)
    name = model.tokenizer.convert_ids_to_tokens(model.spec.mask_token_id)
    how = "the checkpoint's own" if had else "chosen by the run; the checkpoint has none yet"
    return model, f"MASK is {brief(name)}, token {model.spec.mask_token_id}: {how}"


def _self_written(recipe: Recipe, model: TrainedModel) -> Path | None:
    """For `--data self`: the documents that a run has written already."""
    if recipe.data.source != SELF:
        return None
    file = self_data_folder(recipe, model) / DOCUMENTS_FILE
    if not file.is_file():
        raise DataError(
            f"{model.name} has not written its documents yet; a run of the recipe does, before its first step. "
            "Give other --data to see how those would be read."
        )
    return file
