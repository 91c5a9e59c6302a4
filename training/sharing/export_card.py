"""The model card of an export, by huggingface_hub's ModelCard: base, data and licence, and what the export did."""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

import nbdiff_engine as nb
from nbdiff_engine.errors import brief
from nbdiff_engine.model.hub_checkpoints import HUB_ID
from nbdiff_engine.model.lora_folders import base_of_adapter
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from nbdiff_engine.model.weight_files import is_adapter
from training.errors import RunError
from training.model.base import TrainedModel
from training.planning.shapes import find_shape
from training.recipe.recipe import Recipe
from training.run.hub_facts import hub_licence
from training.run.model_card import hub_id_of, model_card
from training.run.run_folder import RunFolder
from training.run.run_progress import Progress
from training.sharing.export_source import Source
from training.sharing.servers import Server

CARD = "README.md"
TAG = "block-diffusion"
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.IGNORECASE)


def write_card(
    folder: Path, source: Source, done: Sequence[str], servers: Sequence[Server], library: str, licence: str | None
) -> None:
    """Write the card of an exported folder. The card of the run or model is kept, and a section on the export is added.

    done: what the export did, a sentence each. library: as the hub names it: transformers, peft or gguf. licence: one
    that was given; else the one that the card or the hub states for the base.
    """
    file = folder / CARD
    card = _own_card(file) or _new_card(folder, source)
    data = card.data
    data.library_name = library
    data.pipeline_tag = data.pipeline_tag or "text-generation"
    data.tags = sorted({*(data.tags or []), TAG})
    base = _base_of(source)
    if base is not None:
        data.base_model = data.base_model or base
    if data.base_model is not None and not HUB_ID.fullmatch(str(data.base_model)):
        data.base_model = None  # the hub looks for a repository of this name
    data.license = licence or data.license or (hub_licence("model", base) if base is not None else None)
    card.text = f"{card.text.rstrip()}\n\n{_section(source, done, servers, data.license)}\n"
    try:
        card.save(file)
    except ValueError as error:
        raise RunError(f"The model card of {source.given} is not valid: {error}") from error


def check_licence(licence: str | None) -> None:
    """Raise RunError for a licence that the hub has no name for, such as an empty one."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        must_be = "give its name as the hub has it, such as mit or apache-2.0, or leave it out"
        raise RunError.of("--licence", brief(licence), must_be)


def _own_card(file: Path) -> ModelCard | None:
    """The card that the run or the model has; None if it has none, or one that the hub could not read."""
    try:
        return ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (OSError, ValueError):
        return None


def _new_card(folder: Path, source: Source) -> ModelCard:
    recipe = source.recipe
    if recipe is not None and not recipe.drafts and not is_adapter(folder):
        return ModelCard(_card_of_checkpoint(folder, source, recipe))
    described = nb.describe(source.given) if source.run is None else None
    kind = "adapter" if is_adapter(folder) else "model"
    text = f"# {source.name}\n\nThis {kind} came without a card: its data is not known here."
    if described is not None:
        blocks = "" if described.spec is None else f", blocks of {described.spec.block_size} tokens"
        text += f"\n\nIts network is a {described.config.model_type}, its weights are {described.saved_dtype}{blocks}."
    return ModelCard(f"---\n{ModelCardData().to_yaml()}\n---\n\n{text}\n")


def _card_of_checkpoint(folder: Path, source: Source, recipe: Recipe) -> str:
    """The card of a run, for the model of one of its checkpoints."""
    model = TrainedModel.of(nb.describe(folder), find_shape(str(folder)).network())
    progress = Progress.read(source.checkpoint.folder / "state.json")
    run = RunFolder(source.run)
    measured = {each.step: each for each in run.all_evaluations()}
    figures, base = run.step_figures(progress.step), hub_id_of(recipe)
    licence = hub_licence("model", base) if base is not None else None
    return model_card(source.name, recipe, model, progress, figures, measured.get(progress.step), base_licence=licence)


def _base_of(source: Source) -> str | None:
    """The hub id of the base; None if it has none, or is not known."""
    if source.run is not None:
        return hub_id_of(source.recipe)
    if source.kind != "model":
        name = base_of_adapter(source.folder, source.given)
        return PACKAGED_MODELS[name].hub_id if name in PACKAGED_MODELS else name if HUB_ID.fullmatch(name) else None
    if source.given in PACKAGED_MODELS:
        return PACKAGED_MODELS[source.given].hub_id
    return source.given if HUB_ID.fullmatch(source.given) and not Path(source.given).exists() else None


def _section(source: Source, done: Sequence[str], servers: Sequence[Server], licence: str | None) -> str:
    facts = [f"Made from {source.about} by `nbdiff export`.", *done]
    if licence is None:
        facts.append("The licence is not known here: ask the owner of the base and of the data before you share it.")
    lines = [f"- {each}" for each in facts]
    started = [each for each in servers if each.line is not None]
    if started:
        lines += ["", "Start it, where `.` is this folder:", "", "```", *(each.line for each in started), "```"]
    refused = [f"- {each.name}: no, {each.about}." for each in servers if each.line is None]
    return "\n".join(["## This export", "", *lines, *([""] if refused else []), *refused])
