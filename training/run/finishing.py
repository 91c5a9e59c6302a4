"""The end of a run: final/, the finished model with its card, and adapter/, the adapters of a LoRA run."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from accelerate import Accelerator

from nbdiff_engine.model.lora_folders import write_spec
from training.data.documents import DocumentSource
from training.errors import RunError
from training.model.adapters import merged, save_adapter
from training.model.base import TrainedModel
from training.model.draft_adapters import TrainedDraftAdapter, save_draft_adapter
from training.recipe.recipe import Recipe
from training.run.checkpointing import publish
from training.run.hub_facts import hub_licence
from training.run.log_lines import HeldOutEvaluation, StepFigures
from training.run.model_card import DataFacts, adapter_card, data_hub_id_of, hub_id_of, model_card
from training.run.run_folder import RunFolder
from training.run.run_progress import Progress
from training.run.step_reader import vocabulary_of

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """What the finished model is made of. model: with the weights to save, which are not merged yet."""

    recipe: Recipe
    model: TrainedModel
    adapters: "PeftModel | TrainedDraftAdapter | None"
    train: DocumentSource
    held_out: int  # documents
    progress: Progress  # of the chosen step
    figures: StepFigures | None  # of the chosen step
    evaluation: HeldOutEvaluation | None  # of the chosen step
    choice: Literal["last", "best"]
    early: bool  # whether saving.patience ended the run

    @property
    def dtype(self) -> torch.dtype:
        """Of the saved weights."""
        return self.model.dtype if self.recipe.save_dtype == "auto" else getattr(torch, self.recipe.save_dtype)


def write_final(folder: RunFolder, finished: Finished, accelerator: Accelerator) -> None:
    """Write adapter/ and final/, each completely or not at all, in the main process; the others wait.

    For a draft adapter there is only final/, the folder of the adapter. Other adapters cannot be used afterwards,
    because they are merged. Raises RunError if a folder cannot be written.
    """
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and isinstance(finished.adapters, TrainedDraftAdapter):
        _publish(folder.final, lambda unfinished: _write_draft_adapter(folder, finished, unfinished))
        logger.info("finished: %s", folder.final)
    elif accelerator.is_main_process:
        if finished.adapters is not None:
            recipe, model, adapters = finished.recipe, finished.model, finished.adapters
            _publish(folder.adapter, lambda unfinished: write_adapter(recipe, model, adapters, unfinished))
        model = finished.model
        if finished.adapters is not None:
            network = merged(finished.adapters, model, finished.recipe, finished.dtype)
            model = replace(model, network=network)

        def write(unfinished: Path) -> None:
            model.save(unfinished, finished.dtype)
            (unfinished / "README.md").write_text(_card(folder, finished, model), encoding="utf-8")

        _publish(folder.final, write)
        logger.info("finished: %s", folder.final)
    accelerator.wait_for_everyone()


def _publish(target: Path, write: Callable[[Path], None]) -> None:
    try:
        publish(target, write)
    except OSError as error:
        raise RunError(
            f"The finished model cannot be written to {target}: {error.strerror or error}; the last checkpoint is "
            "complete. Free disk space and run again with --resume."
        ) from error


def write_adapter(recipe: Recipe, model: TrainedModel, adapters: "PeftModel", folder: Path) -> None:
    """Write the adapters of a LoRA run into an existing folder, with the tokenizer and the spec of the merged model."""
    save_adapter(adapters, model, recipe, folder)
    model.save_tokenizer(folder)
    write_spec(model.spec, folder)
    (folder / "README.md").write_text(adapter_card(recipe, model), encoding="utf-8")


def _write_draft_adapter(run: RunFolder, finished: Finished, folder: Path) -> None:
    vocabulary = vocabulary_of(finished.model)
    save_draft_adapter(finished.adapters, finished.recipe, vocabulary, finished.dtype, folder)
    (folder / "README.md").write_text(_card(run, finished, finished.model), encoding="utf-8")


def _card(folder: RunFolder, finished: Finished, model: TrainedModel) -> str:
    recipe = finished.recipe
    base = hub_id_of(recipe)
    on_the_hub = data_hub_id_of(recipe)
    data = DataFacts(
        name=finished.train.name,
        hub_id=on_the_hub,
        documents=len(finished.train),
        held_out=finished.held_out,
        licence=hub_licence("dataset", on_the_hub) if on_the_hub else None,
    )
    return model_card(
        folder.path.name,
        recipe,
        model,
        finished.progress,
        finished.figures,
        finished.evaluation,
        data=data,
        base_licence=hub_licence("model", base) if base else None,
        choice=finished.choice,
        early=finished.early,
    )
