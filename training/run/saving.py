"""A checkpoint of a run on any number of processes: the main one writes it, or each writes its part."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from training.model.base import TrainedModel
from training.run.checkpointing import OPTIMIZER_FILE, CheckpointStore, optimizer_state
from training.run.run_progress import Progress
from training.run.shards import gathered, write_shard, write_tensors


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a checkpoint holds. whole: save the network with its config and tokenizer; else its trained parameters."""

    model: TrainedModel
    whole: bool
    parameters: Mapping[str, Tensor]
    optimizers: Mapping[str, torch.optim.Optimizer]
    progress: Progress


def save_checkpoint(
    store: CheckpointStore, state: TrainingState, accelerator: Accelerator, split: bool, sharded: bool
) -> None:
    """Save a checkpoint, completely or not at all. All processes call it.

    split: each process has a part of every parameter. sharded: each writes its own part, into a folder that all of them
    see; else the main process writes whole tensors, of which it has all on the CPU at once. Raises RunError if the
    checkpoint cannot be written.
    """
    main, step = accelerator.is_main_process, state.progress.step
    optimizer = optimizer_state(state.optimizers, {id(each): name for name, each in state.parameters.items()})
    weights = state.parameters
    if split and not sharded:
        weights, optimizer = gathered(weights, main), gathered(optimizer, main)

    def write_own(folder: Path) -> None:
        accelerator.wait_for_everyone()  # the main process has made the folder
        write_shard(folder, weights, optimizer, accelerator.process_index, accelerator.num_processes)
        accelerator.wait_for_everyone()

    def write(folder: Path) -> None:
        if sharded:
            write_own(folder)
        else:
            if state.whole:
                state.model.save(folder, state=weights if split else None)
            else:
                write_tensors(folder / "trained.safetensors", weights)
            write_tensors(folder / OPTIMIZER_FILE, optimizer)
        state.progress.write(folder / "state.json")

    if main:
        store.save(step, write)
    elif sharded:
        write_own(store.unfinished(step))
