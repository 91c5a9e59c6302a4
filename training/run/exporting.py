"""Exports a checkpoint, also of a running run, as a model folder that `nbdiff_engine.load` reads."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nbdiff_engine.errors import brief
from nbdiff_engine.model.draft_spec import DRAFT_SPEC
from training.errors import RunError
from training.model.adapters import merged
from training.model.base import TrainedModel
from training.model.draft_adapters import save_draft_adapter
from training.recipe.recipe import Recipe
from training.run.checkpointing import Checkpoint, is_complete, publish
from training.run.finishing import write_adapter
from training.run.launch import load_network, make_objective, make_trainable
from training.run.model_card import draft_adapter_card
from training.run.run_folder import RunFolder
from training.run.shards import is_sharded
from training.run.step_reader import vocabulary_of

if TYPE_CHECKING:
    from peft import PeftModel

_NOT_EXPORTED = ("optimizer.safetensors", "state.json", "manifest.json")


def newest_or(checkpoints: Sequence[Checkpoint], step: object) -> Checkpoint:
    """The checkpoint of a step. step: an integer or its digits. Raises RunError if there is no such checkpoint."""
    for each in checkpoints:
        if str(each.step) == str(step):
            return each
    steps = ", ".join(str(each.step) for each in checkpoints)
    raise RunError(
        f"There is no checkpoint of step {brief(step)}; choose one of step {steps}."
        if steps
        else "There is no checkpoint yet; wait for the first one, or save now."
    )


def final_of(run: Path) -> Path:
    """The folder of a run's finished model. Raises RunError if the run is not finished."""
    final = RunFolder(run).final
    if not any((final / name).is_file() for name in ("config.json", DRAFT_SPEC)):
        raise RunError("The run has no finished model yet; open one of its checkpoints.")
    return final


def export(run: Path, checkpoint: Checkpoint, target: Path) -> Path:
    """Write the model of a checkpoint to a subfolder of `target`, and return that subfolder. Adapters are merged; of a
    draft adapter, its folder is written.

    A complete earlier export is kept. Raises RunError if it cannot be written, or if the run removes the checkpoint
    during the export.
    """
    folder = target / checkpoint.folder.name
    if is_complete(folder):
        return folder
    try:
        publish(folder, lambda unfinished: write_checkpoint(run, checkpoint, unfinished))
    except FileNotFoundError as error:
        raise RunError(
            f"The checkpoint of step {checkpoint.step} was replaced by a newer one during the export; open that one."
        ) from error
    except OSError as error:
        raise RunError(f"The model cannot be written to {folder}: {error.strerror or error}.") from error
    return folder


def write_checkpoint(run: Path, checkpoint: Checkpoint, target: Path) -> None:
    """Write the model of a checkpoint into an existing folder; of a draft adapter, its folder.

    Raises OSError, and RunError for a checkpoint that does not fit its run.
    """
    recipe = Recipe.read(str(run / "recipe.yaml"))
    if recipe.drafts:
        _draft_adapter(recipe, run, checkpoint, target)
    elif recipe.lora is None and is_sharded(checkpoint.folder):
        model, _ = _trained(recipe, run, checkpoint)
        model.save(target)
    elif recipe.lora is None:
        _copy(checkpoint.folder, target)
    else:
        _merge(recipe, run, checkpoint, target)


def write_lora(run: Path, checkpoint: Checkpoint, target: Path) -> None:
    """Write the adapters of a checkpoint of a LoRA run into an existing folder, like adapter/ of a finished run.

    Raises as `write_checkpoint`.
    """
    recipe = Recipe.read(str(run / "recipe.yaml"))
    model, adapters = _trained(recipe, run, checkpoint)
    write_adapter(recipe, model, adapters, target)


def _trained(recipe: Recipe, run: Path, checkpoint: Checkpoint) -> tuple[TrainedModel, "PeftModel | None"]:
    """The base with the adapters of a checkpoint around its layers."""
    base = load_network(recipe, run.name, torch.device("cpu"))
    model, adapters = make_trainable(recipe, base)
    trained = {name: each for name, each in model.network.named_parameters() if each.requires_grad}
    RunFolder(run).load_tensors(checkpoint.folder, "trained.safetensors", trained)
    return model, adapters  # None without LoRA


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name not in _NOT_EXPORTED:
            shutil.copyfile(path, target / path.name)


def _merge(recipe: Recipe, run: Path, checkpoint: Checkpoint, target: Path) -> None:
    """Write the base with the trained adapters merged, like the model in final/."""
    model, adapters = _trained(recipe, run, checkpoint)
    dtype = model.dtype if recipe.save_dtype == "auto" else getattr(torch, recipe.save_dtype)
    replace(model, network=merged(adapters, model, recipe, dtype)).save(target, dtype)


def _draft_adapter(recipe: Recipe, run: Path, checkpoint: Checkpoint, target: Path) -> None:
    """Write the folder of a draft adapter, like the one in final/."""
    base = load_network(recipe, run.name, torch.device("cpu"))
    model, adapter = make_trainable(recipe, base)
    trained = make_objective(recipe, model, adapter, "cpu").trained()
    RunFolder(run).load_tensors(checkpoint.folder, "trained.safetensors", trained)
    dtype = model.dtype if recipe.save_dtype == "auto" else getattr(torch, recipe.save_dtype)
    save_draft_adapter(adapter, recipe, vocabulary_of(model), dtype, target)
    card = draft_adapter_card(recipe, model, checkpoint.step)
    (target / "README.md").write_text(card, encoding="utf-8")
