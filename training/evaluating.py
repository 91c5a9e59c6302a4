"""Held-out losses of a training run: per token, each objective by itself."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from torch import nn

from training.noising import Batch


@torch.no_grad()
def evaluate(objective: nn.Module, batches: Iterable[Batch], accelerator: Accelerator) -> dict[str, float | None]:
    """Mean cross-entropy in nats of masked tokens and of next tokens; None where there is none of them.

    `batches` are this process's own; the figures are those of all processes.
    """
    was_training = objective.training
    objective.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    try:
        for batch in batches:
            losses = objective(batch.to(accelerator.device))
            sums += torch.tensor(
                [losses.mdm_sum.item(), losses.ar_sum.item(), losses.mdm_count, losses.ar_count], dtype=torch.float64
            )
    finally:
        objective.train(was_training)
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device), "sum")
    mdm_sum, ar_sum, masked, scored = sums.tolist()
    return {
        "loss_mdm": mdm_sum / masked if masked else None,
        "loss_ar": ar_sum / scored if scored else None,
    }
