"""A run's model and data as far as they can be had without reading a weight: tokenizer, config, MASK."""

from pathlib import Path

import torch
from transformers import GenerationConfig

from nbdiff_engine.errors import brief
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.checkpoints import _load_tokenizer, _read_config, find_checkpoint
from nbdiff_engine.model.families import FAMILIES
from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec
from training.data.data_settings import SELF
from training.data.documents import DocumentSource
from training.data.self_generated import cache_folder
from training.errors import DataError, RecipeError
from training.model.base import TrainedModel, with_spec
from training.model.new_model import new_model, train_tokenizer
from training.planning.shapes import find_shape
from training.recipe.recipe import Recipe
from training.run.launch import open_documents, tokenizer_texts

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
    folder = find_checkpoint(recipe.base)
    shape, config = find_shape(recipe.base), _read_config(folder)
    family = FAMILIES.get(str(config.get("model_type")))
    tokenizer = _load_tokenizer(folder, shape.name, family)
    if tokenizer is None:
        raise RecipeError(f"{shape.name} has no tokenizer that loads here, so its training data cannot be encoded.")
    if family is not None:
        fields = family.diffusion_fields(config, tokenizer.mask_token_id)
        config = {**config, CONFIG_KEY: fields}
    network = shape.network()
    if (folder / "generation_config.json").is_file():
        network.generation_config = GenerationConfig.from_pretrained(folder)
    facts = BlockModel.__new__(BlockModel)  # its making runs the network once, which has no weights here
    facts.network, facts.tokenizer, facts.name = network, tokenizer, shape.name
    own = tokenizer.eos_token_id
    model = TrainedModel(
        network=network,
        tokenizer=tokenizer,
        spec=DiffusionSpec.from_config(config, shape.name),
        name=shape.name,
        dtype=shape.dtype,
        context_length=facts.context_length,
        eos_token_ids=tuple(sorted(facts.eos_token_ids, key=lambda each: (each != own, each))),
        bos_before_template=family is not None and family.bos_before_template,
    )
    had = model.spec is not None or tokenizer.mask_token_id is not None
    objective = recipe.objective
    model = with_spec(model, recipe.blocks.b_max, objective.context, objective.token_shift)
    name = tokenizer.convert_ids_to_tokens(model.spec.mask_token_id)
    how = "the checkpoint's own" if had else "chosen by the run; the checkpoint has none yet"
    return model, f"MASK is {brief(name)}, token {model.spec.mask_token_id}: {how}"


def _self_written(recipe: Recipe, model: TrainedModel) -> Path | None:
    """For `--data self`: the documents that a run has written already."""
    if recipe.data.source != SELF:
        return None
    dtype = model.dtype if recipe.lora else torch.float32
    arithmetic = f"{dtype}, {recipe.quantization or 'not quantised'}"
    file = cache_folder(find_checkpoint(recipe.base), recipe.data, arithmetic) / "documents.jsonl"
    if not file.is_file():
        raise DataError(
            f"{model.name} has not written its documents yet; a run of the recipe does, before its first step. "
            "Give other --data to see how those would be read."
        )
    return file
