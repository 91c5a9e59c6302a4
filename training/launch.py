"""From a recipe to a running Trainer: the network, its MASK, its data, its folder, its processes."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from nbdiff_engine.errors import brief
from training.adapters import add_adapters, keep_gradients_of_quantised_layers
from training.base import TrainedModel, load_base, with_spec
from training.data.dataset import open_source
from training.data.documents import DocumentSource
from training.data.formats import Encoder
from training.data.settings import CORPUS
from training.errors import RecipeError, RunError
from training.new_model import new_model, train_tokenizer
from training.recipe import Recipe
from training.run_folder import RunFolder
from training.trainer import Trainer

logger = logging.getLogger(__name__)

DEFAULT_RUNS = Path("runs")


def start(recipe: Recipe, output: Path, resume: bool) -> Path:
    """Run a recipe to its end; the folder of the finished model.

    Raises NBDiffError of one kind or another, one sentence each, before anything is written where it can.
    """
    folder = RunFolder(output)
    accelerator = make_accelerator(recipe, folder)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if accelerator.is_main_process and resume != folder.holds_a_run:
        folder.open(recipe, resume)  # refuses, before anything is loaded
    model, adapters = make_model(recipe, output.name)
    train, held_out = open_documents(recipe, model)
    if accelerator.is_main_process:
        folder.open(recipe, resume)
    accelerator.wait_for_everyone()
    if recipe.saving.trackers:
        accelerator.init_trackers("nbdiff", config={"recipe": recipe.to_yaml()})
    trainer = Trainer(recipe, model, train, held_out, folder, accelerator, adapters)
    try:
        if resume:
            trainer.resume()
        trainer.run()
    finally:
        accelerator.end_training()
    return folder.final


def make_accelerator(recipe: Recipe, folder: RunFolder) -> Accelerator:
    """Processes, device and precision. What was really got is in the log's first line."""
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        accelerator = Accelerator(
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            cpu=not torch.cuda.is_available(),
            log_with=list(recipe.saving.trackers) or None,
            project_dir=str(folder.path / "trackers"),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
    except (ValueError, RuntimeError) as error:
        raise RunError(f"The run cannot start on this machine: {str(error).splitlines()[0]}") from error
    if accelerator.num_processes != asked:
        raise RunError(f"{asked} processes were asked for, and {accelerator.num_processes} started; use torchrun.")
    return accelerator


def make_model(recipe: Recipe, name: str):
    """The network to train, and the PeftModel around it where LoRA is trained. name: of what is made."""
    if recipe.kind == "pretrain":
        texts = tokenizer_texts(recipe)
        tokenizer = train_tokenizer(texts, recipe.network.tokenizer.vocab_size)
        return new_model(recipe.network, tokenizer, recipe.seed, name), None
    if recipe.base is None:
        raise RecipeError("The recipe names no base checkpoint; give one with --base.")
    dtype = "auto" if recipe.lora else "float32"
    model = load_base(recipe.base, dtype, recipe.quantization)
    objective = recipe.objective
    model = with_spec(model, recipe.blocks.b_max, objective.context, objective.token_shift)
    if recipe.quantization == "4bit":
        keep_gradients_of_quantised_layers(model.network)
    adapters = None
    if recipe.lora:
        adapters = add_adapters(model.network, recipe.lora, model.spec.mask_token_id, recipe.seed)
    model.network.train()
    return model, adapters


def tokenizer_texts(recipe: Recipe) -> Iterable[str]:
    """What a new tokenizer learns from: the first documents of the data, as text."""
    if recipe.data.source != CORPUS:
        raise RecipeError(
            f"pretrain reads the corpus; its tokenizer cannot be trained on {brief(recipe.data.source)} yet."
        )
    from nbdiff_engine.tasks import DOMAINS
    from training.corpus import example

    for index in range(recipe.network.tokenizer.documents):
        problem = example(DOMAINS[index % len(DOMAINS)], "train", index, recipe.data.seed)
        yield problem.prompt
        yield problem.answer


def open_documents(recipe: Recipe, model: TrainedModel) -> tuple[DocumentSource, DocumentSource]:
    """The documents to train on, and those to evaluate on."""
    encoder = Encoder(
        model.tokenizer,
        model.eos_token_ids,
        model.bos_before_template,
        recipe.data.raw,
        () if model.spec is None else (model.spec.mask_token_id,),
    )
    return open_source(recipe.data, encoder)
