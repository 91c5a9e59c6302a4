"""Open a run's data and its model without weights: tokenizer, config, MASK."""

from typing import NamedTuple

import torch

from nbdiff_engine import describe
from nbdiff_engine.errors import brief
from training.data.data_settings import SELF
from training.data.documents import DocumentSource
from training.data.self_generated import DOCUMENTS_FILE, written_count
from training.errors import DataError
from training.model.base import TrainedModel, with_spec
from training.model.new_model import new_model, train_tokenizer
from training.planning.shapes import meta_network
from training.recipe.recipe import Recipe
from training.run.launch import first_documents, open_documents, self_data_folder, tokenizer_texts

_TOKENIZER_DOCUMENTS = 500  # pretrain: enough to preview the tokenizer


class OpenedRun(NamedTuple):
    """A run without weights."""

    model: TrainedModel  # on the meta device
    train: DocumentSource
    held_out: int  # documents
    about_mask: str  # a sentence about its MASK or its tokenizer


def open_without_weights(recipe: Recipe) -> OpenedRun:
    """The model and the documents of a run.

    Raises NBDiffError if the run could not start.
    """
    recipe.require_inputs()
    model, about_mask = _model(recipe)
    written = None
    if recipe.data.source == SELF:
        written = self_data_folder(recipe, model) / DOCUMENTS_FILE
        count = written_count(recipe.data, written)
        if not count:
            raise DataError(
                f"{model.name} has not written its documents yet. A run writes them before its first step, and "
                "python -m training preview the first few; or choose other data."
            )
        if count < recipe.data.self_data.documents:
            if recipe.optimisation.epochs is not None:
                raise DataError(
                    f"optimisation.epochs is {recipe.optimisation.epochs:g}, but {model.name} has written only {count} "
                    f"of {recipe.data.self_data.documents} documents, so the steps cannot be counted",
                    give=["max_steps"],
                )
            few = first_documents(recipe.data, count)
            opened = recipe.model_copy(update={"data": few.model_copy(update={"held_out": 0})})
            return OpenedRun(model, open_documents(opened, model, written)[0], recipe.data.held_out, about_mask)
    train, held_out = open_documents(recipe, model, written)
    return OpenedRun(model, train, 0 if held_out is None else len(held_out), about_mask)


def _model(recipe: Recipe) -> tuple[TrainedModel, str]:
    """The model of the run, on the meta device, and a sentence about its MASK."""
    if recipe.kind == "pretrain":
        few = min(_TOKENIZER_DOCUMENTS, recipe.network.tokenizer.documents)
        tokenizer_settings = recipe.network.tokenizer.model_copy(update={"documents": few})
        network_settings = recipe.network.model_copy(update={"tokenizer": tokenizer_settings})
        texts = tokenizer_texts(recipe.model_copy(update={"network": network_settings}))
        tokenizer = train_tokenizer(texts, recipe.network.tokenizer.vocab_size)
        with torch.device("meta"):
            model = new_model(recipe.network, tokenizer, recipe.seed, "a new network")
        return model, f"the tokenizer shown here is trained on {few} documents, the run's on more"
    described = describe(recipe.base)
    model = TrainedModel.of(described, meta_network(described.config, described.label))
    if recipe.drafts:
        what = "a trained MASK embedding" if recipe.draft.noise == "mask" else "random tokens"
        return model, f"noise rows read {what}; the base and its tokenizer stay as they are"
    has_mask = model.own_mask is not None
    objective = recipe.objective
    model = with_spec(
        model,
        recipe.blocks.b_max,
        objective.context,
        objective.token_shift,
        objective.mask_token,
        objective.pad_vocabulary_to,
    )
    name = model.tokenizer.convert_ids_to_tokens(model.spec.mask_token_id)
    how = "the checkpoint's own" if has_mask else "chosen by the run; the checkpoint has none yet"
    return model, f"MASK is {brief(name)}, token {model.spec.mask_token_id}: {how}"
