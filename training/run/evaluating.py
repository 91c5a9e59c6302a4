"""Held-out losses of a training run: MDM and AR loss per token, separately."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import nn

from training.objective.noising import Batch
from training.run.log_lines import HeldOutLosses


@torch.no_grad()
def evaluate(objective: nn.Module, batches: Iterable[Batch], accelerator: Accelerator) -> HeldOutLosses:
    """Mean losses in nats per token, where fill has the weight it has in training.

    batches: those of this process; the means are over all processes.
    """
    was_training = objective.training
    objective.eval()
    sums = torch.zeros(6, dtype=torch.float64)
    try:
        for batch in batches:
            sums += objective(batch.to(accelerator.device)).numbers()
    finally:
        objective.train(was_training)
    mdm_sum, ar_sum, _, scored, weight, _ = summed(sums, accelerator)
    return HeldOutLosses(mdm_sum / weight if weight else None, ar_sum / scored if scored else None)


def summed(sums: torch.Tensor, accelerator: Accelerator) -> list[float]:
    """Each number summed over all processes. sums: shape [N]."""
    if accelerator.num_processes == 1:
        return sums.tolist()
    return accelerator.reduce(sums.to(accelerator.device), "sum").tolist()
