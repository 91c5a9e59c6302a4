"""From a recipe to a Trainer: the network with its MASK, the data, the run's folder, and the processes."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from transformers.utils import logging as transformers_logging

from nbdiff_engine import BlockModel
from nbdiff_engine.errors import CheckpointError
from nbdiff_engine.model.checkpoint_folders import find_checkpoint
from nbdiff_engine.model.spec import DiffusionSpec
from training.data.data_settings import CORPUS, SELF, DataSettings
from training.data.dataset import open_source
from training.data.documents import DocumentSource
from training.data.encoder import Encoder
from training.data.formats import detect_format
from training.data.mixture import rows_of
from training.data.self_generated import cache_folder, open_self, wait_for_self_data, write_self_data
from training.data.shared_source import SharedSource
from training.data.source_names import parts_of
from training.errors import RecipeError, RunError
from training.failure_kind import FailureKind
from training.model.adapters import add_adapters
from training.model.base import TrainedModel, choose_mask_token, load_base, with_spec
from training.model.draft_adapters import TrainedDraftAdapter, add_draft_adapter
from training.model.new_model import new_model, train_tokenizer
from training.model.precision import loads_float32, with_precision
from training.objective.attention_choice import use_attention, use_draft_attention
from training.objective.draft_losses import Weights
from training.objective.draft_objective import DraftObjective
from training.objective.objective import Objective
from training.recipe.recipe import Recipe
from training.run.launchers import USE_FSDP, check_launcher, parent_command, wants_sharding
from training.run.log_lines import StepFigures
from training.run.resuming import check_folder
from training.run.run_folder import RunFolder
from training.run.run_length import with_steps
from training.run.sharding import check_sharding
from training.run.step_reader import packer_of
from training.run.trackers import check_trackers
from training.run.trainer import Trainer

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

GROUP_TIMEOUT = timedelta(hours=2)  # long, because the other processes wait while the first one saves


def start(recipe: Recipe, output: Path, resume: bool, on_step: Callable[[StepFigures], object] | None = None) -> Path:
    """Train a recipe to its end, and return the folder of the finished model.

    on_step: as in `Trainer`.
    Raises NBDiffError with one sentence. Mistakes in the recipe or the data are found before anything is written,
    where that is possible.
    """
    return run_to_end(make_trainer(recipe, output, resume, on_step), resume)


def run_to_end(trainer: Trainer, resume: bool) -> Path:
    """The second half of `start`, for a trainer that is made."""
    try:
        if resume:
            trainer.resume()
        trainer.run()
    finally:
        trainer.accelerator.end_training()
    return trainer.folder.final


def make_trainer(
    recipe: Recipe, output: Path, resume: bool, on_step: Callable[[StepFigures], object] | None = None
) -> Trainer:
    """The trainer of a run, with the network and data loaded and the folder created; nothing is trained yet.

    Raises NBDiffError as `start` does.
    """
    recipe.require_inputs()
    recipe = with_precision(recipe, "cuda" if torch.cuda.is_available() else "cpu")
    if wants_sharding(os.environ):
        recipe = recipe.model_copy(update={"shard": True})
    if recipe.shard:
        check_sharding(recipe)
    transformers_logging.disable_progress_bar()  # of loading and saving weights
    folder = RunFolder(output)
    accelerator = make_accelerator(recipe, folder)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    # Before anything is loaded.
    changes = check_folder(folder, recipe, resume, accelerator.num_processes)
    split = recipe.shard and accelerator.num_processes > 1
    # A network that does not fit on one device is split on its way from the CPU.
    base = load_network(recipe, output.name, torch.device("cpu") if split else accelerator.device)
    self_written = write_documents(recipe, base, accelerator.is_local_main_process)
    model, adapters = make_trainable(recipe, base)
    train, held_out = open_documents(recipe, model, self_written)
    if accelerator.num_processes > 1:
        # A group of its own, because a thread reads the data while gradients are summed.
        group = torch.distributed.new_group(backend="gloo", timeout=GROUP_TIMEOUT)
        train, held_out = SharedSource(train, group), SharedSource(held_out, group)
    packer_of(recipe, model, train).check()
    if recipe.optimisation.epochs is not None:
        recipe = with_steps(recipe, model, train, accelerator.num_processes)
        changes = check_folder(folder, recipe, resume, accelerator.num_processes)
    objective = make_objective(recipe, model, adapters, accelerator.device.type)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if changes:
            logger.info("resuming with %s", changes)
        folder.create(recipe)
    accelerator.wait_for_everyone()
    if recipe.saving.trackers:
        accelerator.init_trackers("nbdiff", config={"recipe": recipe.to_yaml()})

    def plain(weights: Mapping[str, torch.Tensor]) -> tuple[TrainedModel, "PeftModel | TrainedDraftAdapter | None"]:
        whole, own = make_trainable(recipe, load_network(recipe, output.name, torch.device("cpu")))
        trained = make_objective(recipe, whole, own, "cpu").trained()
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(weights[name])
        return whole, own

    return Trainer(recipe, model, objective, train, held_out, folder, accelerator, adapters, on_step, plain)


def make_accelerator(recipe: Recipe, folder: RunFolder) -> Accelerator:
    """The Accelerator: processes, device and precision. The first line of the run's log shows them.

    Raises RunError for a launcher or a device that is not supported, RecipeError for a tracker that is not installed.
    """
    check_launcher(os.environ, parent_command())
    check_trackers(recipe.saving.trackers)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    # The split is made here, not by accelerate, which would split only what it prepares together with an optimiser.
    os.environ.pop(USE_FSDP, None)
    try:
        accelerator = Accelerator(
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            cpu=not torch.cuda.is_available(),
            log_with=list(recipe.saving.trackers) or None,
            project_dir=str(folder.path / "trackers"),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=GROUP_TIMEOUT)],
        )
    except (ValueError, RuntimeError) as error:
        raise RunError(f"The run cannot start on this machine: {str(error).splitlines()[0]}") from error
    if accelerator.num_processes != world_size:
        raise RunError(
            f"WORLD_SIZE is {world_size}, but {accelerator.num_processes} processes started; "
            "start the run with torchrun."
        )
    return accelerator


def load_network(recipe: Recipe, name: str, device: torch.device) -> TrainedModel:
    """The base as loaded from its checkpoint, or a new network. name: of the new network."""
    if recipe.kind == "pretrain":
        texts = tokenizer_texts(recipe)
        tokenizer = train_tokenizer(texts, recipe.network.tokenizer.vocab_size)
        return new_model(recipe.network, tokenizer, recipe.seed, name)
    recipe.require_inputs(data=False)
    try:
        find_checkpoint(recipe.base)
    except CheckpointError as error:
        raise RunError(str(error), FailureKind.MISSING_FILE) from error
    dtype = torch.float32 if loads_float32(recipe) else None
    return load_base(recipe.base, dtype, recipe.quantization, str(device))


def self_data_folder(recipe: Recipe, base: TrainedModel) -> Path:
    """For `--data self`: the cache folder of the documents, which depends on this run's dtype and quantisation."""
    dtype = torch.float32 if loads_float32(recipe) else base.dtype
    arithmetic = f"{dtype}, {recipe.quantization or 'not quantised'}"
    return cache_folder(find_checkpoint(recipe.base), recipe.data, arithmetic)


def write_documents(recipe: Recipe, base: TrainedModel, writes: bool, most: int | None = None) -> Path | None:
    """For `--data self`: the file of documents that the base writes now or wrote in an earlier run.

    Call this before the network is adapted. writes: true for one process per machine. The others wait for the file,
    because a barrier would time out. most: write only the first of them.
    """
    if recipe.data.source != SELF:
        return None
    folder = self_data_folder(recipe, base)
    if not writes:
        return wait_for_self_data(recipe.data, folder)
    spec = base.spec
    if spec is None and not recipe.drafts:
        # MASK is chosen first, so that the base cannot write it: no document may contain MASK.
        mask = choose_mask_token(base, recipe.objective.mask_token, recipe.objective.pad_vocabulary_to)
        spec = DiffusionSpec(mask_token_id=mask)
    author = BlockModel(base.network, base.tokenizer, spec, base.name, base.bos_before_template)
    return write_self_data(author, first_documents(recipe.data, most), folder)


def first_documents(data: DataSettings, most: int | None) -> DataSettings:
    """The settings of `--data self` with at most this number of documents."""
    own = data.self_data
    count = own.documents if most is None else min(most, own.documents)
    return data.model_copy(update={"self_data": own.model_copy(update={"documents": count})})


def make_trainable(
    recipe: Recipe, model: TrainedModel
) -> tuple[TrainedModel, "PeftModel | TrainedDraftAdapter | None"]:
    """The network to train, with its MASK, and its adapters.

    The adapters are the PeftModel around the network if LoRA is trained, and a TrainedDraftAdapter for `draft_only`,
    whose network stays the base without a MASK; else None.
    """
    if recipe.kind == "pretrain":
        return model, None
    if recipe.drafts:
        adapter = add_draft_adapter(model, recipe)
        model.network.train()
        return model, adapter
    objective = recipe.objective
    model = with_spec(
        model,
        recipe.blocks.b_max,
        objective.context,
        objective.token_shift,
        objective.mask_token,
        objective.pad_vocabulary_to,
    )
    adapters = None
    if recipe.lora:
        adapters = add_adapters(model.network, recipe.lora, model.spec.mask_token_id, recipe.seed)
    model.network.train()
    return model, adapters


def make_objective(
    recipe: Recipe, model: TrainedModel, adapters: "PeftModel | TrainedDraftAdapter | None", device: str
) -> Objective | DraftObjective:
    """The objective of a run, and its attention in the network. device: a torch device type.

    Raises RecipeError for an attention that does not fit.
    """
    if not isinstance(adapters, TrainedDraftAdapter):
        use_attention(model.network, recipe.attention, device)
        return Objective(model.network, recipe.objective.context)
    plans = use_draft_attention(model.network, recipe.attention, device) == "documents"
    draft = recipe.draft
    weights = Weights(draft.ce, draft.kl, draft.tv)
    causal = draft.noise_attention == "causal"
    if adapters.mask_embedding is not None:
        adapters.mask_embedding.data = adapters.mask_embedding.data.to(model.network.device)
    return DraftObjective(adapters.peft, model.network, weights, causal, adapters.mask_embedding, plans)


def tokenizer_texts(recipe: Recipe) -> Iterable[str]:
    """The training text of a new tokenizer: the first documents of the data."""
    count = recipe.network.tokenizer.documents
    if recipe.data.source == SELF:
        raise RecipeError("data is 'self', but a new network cannot write its own training data; give other --data.")
    if recipe.data.source != CORPUS:
        parts = parts_of(recipe.data)
        for number, part in enumerate(parts):
            rows = rows_of(part, recipe.data)
            layout = detect_format(rows.column_names, recipe.data)
            for row in islice(rows, count // len(parts) + (number < count % len(parts))):
                yield from layout.texts(row)
        return
    from nbdiff_engine.tasks import DOMAINS
    from training.corpus.problems import example

    for index in range(count):
        problem = example(DOMAINS[index % len(DOMAINS)], "train", index, recipe.data.seed)
        yield problem.prompt
        yield problem.answer


def open_documents(
    recipe: Recipe, model: TrainedModel, self_written: Path | None = None
) -> tuple[DocumentSource, DocumentSource]:
    """The documents to train on, and the held-out ones. self_written: the result of `write_documents`."""
    if self_written is not None:
        return open_self(recipe.data, self_written)
    encoder = Encoder(
        model.tokenizer,
        model.eos_token_ids,
        model.bos_before_template,
        recipe.data.raw,
        () if model.spec is None else (model.spec.mask_token_id,),
        recipe.data.control_tokens,
        recipe.data.template_arguments,
    )
    return open_source(recipe.data, encoder)
