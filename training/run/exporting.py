"""From a checkpoint of a run to a model folder that `nbdiff_engine.load` reads, while the run goes on."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nbdiff_engine.errors import brief
from training.errors import RunError
from training.model.adapters import merged
from training.recipe.recipe import Recipe
from training.run.checkpointing import Checkpoint, is_whole, publish
from training.run.launch import load_network, make_trainable
from training.run.run_folder import RunFolder

_OF_THE_RUN = ("optimizer.safetensors", "state.json", "manifest.json")


def newest_or(checkpoints: Sequence[Checkpoint], step: object) -> Checkpoint:
    """The checkpoint of a step, given as a number or its digits. Raises RunError where there is none."""
    for each in checkpoints:
        if str(each.step) == str(step):
            return each
    there = ", ".join(str(each.step) for each in checkpoints)
    raise RunError(
        f"There is no checkpoint of step {brief(step)} any more; there are those of {there}."
        if there
        else "There is no checkpoint yet; wait for the first one, or save now."
    )


def final_of(run: Path) -> Path:
    """The finished model of a run. Raises RunError where there is none."""
    final = RunFolder(run).final
    if not (final / "config.json").is_file():
        raise RunError("The run has no finished model yet; open one of its checkpoints.")
    return final


def export(run: Path, checkpoint: Checkpoint, target: Path) -> Path:
    """Write the model of a checkpoint to a folder below `target`, merged if it is of adapters; that folder.

    One that is there already is kept. The run may drop the checkpoint at any time; RunError says so.
    """
    folder = target / checkpoint.folder.name
    if is_whole(folder):
        return folder
    recipe = Recipe.read(str(run / "recipe.yaml"))
    try:
        if recipe.lora is None:
            publish(folder, lambda beside: _copy(checkpoint.folder, beside))
        else:
            publish(folder, lambda beside: _merge(recipe, run, checkpoint, beside))
    except FileNotFoundError as error:
        raise RunError(
            f"The checkpoint of step {checkpoint.step} has been replaced by a newer one meanwhile; open that."
        ) from error
    except OSError as error:
        raise RunError(f"The model cannot be written to {folder}: {error.strerror or error}.") from error
    return folder


def _copy(source: Path, beside: Path) -> None:
    for path in source.iterdir():
        if path.name not in _OF_THE_RUN:
            shutil.copyfile(path, beside / path.name)


def _merge(recipe: Recipe, run: Path, checkpoint: Checkpoint, beside: Path) -> None:
    """The base with the trained adapters folded in, as the run itself makes it at its end."""
    base = load_network(recipe, run.name, torch.device("cpu"))
    model, adapters = make_trainable(recipe, base)
    trained = {name: each for name, each in model.network.named_parameters() if each.requires_grad}
    RunFolder(run).load_tensors(checkpoint.folder, "trained.safetensors", trained)
    dtype = model.dtype if recipe.save_dtype == "auto" else getattr(torch, recipe.save_dtype)
    replace(model, network=merged(adapters, model, recipe, dtype)).save(beside, dtype)
