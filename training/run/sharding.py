"""How processes share a network: each with all of it (DDP), or each with a part of every weight (FSDP2).

FSDP2 is `torch.distributed.fsdp.fully_shard`: the weights of a layer are gathered before it runs, and its gradients are
summed into the parts afterwards. Losses and steps are the same as with DDP and as in one process.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from training.errors import RecipeError, RunError
from training.objective.draft_objective import DraftObjective
from training.objective.objective import Objective
from training.recipe.recipe import Recipe


def check_sharding(recipe: Recipe) -> None:
    """Raise RecipeError, one sentence, for settings that do not go with weights that are split over processes."""
    problems = {
        "quantization": (recipe.quantization, "quantised weights cannot be split by rows; leave quantization out"),
        "compile": (recipe.compile, "compiling a network that is split was not tested; leave compile out"),
        "optimisation.optimizer": (
            recipe.optimisation.optimizer == "muon",
            "Muon needs whole matrices; set optimisation.optimizer to adamw",
        ),
        "saving.probes": (recipe.saving.probes, "one process alone cannot decode with a part of the weights; leave it"),
    }
    for name, (found, why) in problems.items():
        if found:
            raise RecipeError(f"shard is set, and {name} is {getattr(found, 'value', found)}: {why}.")


class Sharing:
    """One network of a run over its processes. split: whether each has a part of every weight."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe):
        self.accelerator = accelerator
        self.split = recipe.shard and accelerator.num_processes > 1
        self._bf16 = recipe.precision == "bf16"

    @property
    def kind(self) -> str:
        """For the log."""
        return "FSDP2" if self.split else str(self.accelerator.distributed_type.value)

    def wrap(self, objective: Objective | DraftObjective) -> nn.Module:
        """The module to call in a step. With a split, its parameters are other objects afterwards."""
        if not self.split:
            return self.accelerator.prepare(objective)
        device = self.accelerator.device.type
        half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        how: dict[str, Any] = {
            "mesh": init_device_mesh(device, (self.accelerator.num_processes,)),
            "mp_policy": half if self._bf16 else MixedPrecisionPolicy(),
        }
        layers = getattr(objective.body, "layers", None)
        if layers is None:
            kind = type(objective.network).__name__
            raise RunError(f"shard is set, but a {kind} has no list of layers to split; train it without shard.")
        for layer in layers:
            fully_shard(layer, **how)
        fully_shard(objective, **how)
        if isinstance(objective, DraftObjective):
            register_fsdp_forward_method(objective, "drafts")
        if self._bf16:  # as `prepare` does it
            objective.forward = torch.autocast(device, dtype=torch.bfloat16)(objective.forward)
        return objective

    def gradient_sync(self, wrapped: nn.Module, last: bool) -> AbstractContextManager:
        """Let processes exchange gradients only in the backward pass of a step's last micro-batch.

        A split network exchanges them in each: a sum over micro-batches would otherwise need all rows in every process.
        """
        return nullcontext() if last or self.split else self.accelerator.no_sync(wrapped)

    def check_batch(self, there: torch.Tensor) -> None:
        """Raise RunError for a micro-batch without a token, for which a split network cannot run in step with others.

        there: bool, the tokens that are no padding.
        """
        if self.split and not there.any():
            raise RunError(
                "A micro-batch has no document, and with shard all processes must run the same layers; lower "
                "optimisation.accumulation or optimisation.rows."
            )
