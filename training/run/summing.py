"""Sums of figures over the processes of a run."""

import torch
from accelerate import Accelerator


def summed(sums: torch.Tensor, accelerator: Accelerator) -> list[float]:
    """Each number summed over all processes. sums: shape [N]."""
    if accelerator.num_processes == 1:
        return sums.tolist()
    return accelerator.reduce(sums.to(accelerator.device), "sum").tolist()
