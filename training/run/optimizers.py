"""The optimisers of the parameters, and the learning rate, which depends only on the settings and the step."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from training.recipe.recipe import Optimisation


def make_optimizers(settings: Optimisation, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.optim.Optimizer]:
    """AdamW for all parameters, or Muon for the matrices of the layers and AdamW for embeddings, head and vectors.

    Muon's update is scaled to the RMS of AdamW's, so that both use the same learning rate. Keys: "adamw", "muon".
    """
    muon = {}
    if settings.optimizer == "muon":
        muon = {name: each for name, each in parameters.items() if each.ndim == 2 and ".layers." in name}
    rest = [each for name, each in parameters.items() if name not in muon]
    groups = [
        {"params": [each for each in rest if each.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [each for each in rest if each.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (settings.beta_1, settings.beta_2)
    made: dict[str, torch.optim.Optimizer] = {}
    if any(group["params"] for group in groups):
        made["adamw"] = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=settings.learning_rate, betas=betas, fused=True
        )
    if muon:
        made["muon"] = torch.optim.Muon(
            list(muon.values()),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
    return made


def rate_at(settings: Optimisation, step: int) -> float:
    """The learning rate of a step: linear warm-up, constant, then decay to `decay_to` times the peak."""
    peak, total = settings.learning_rate, settings.max_steps
    warm, fall = settings.warmup * total, settings.decay * total
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    left = total - step
    if fall and left < fall:
        share = left / fall
        if settings.decay_shape == "cosine":
            share = 0.5 * (1 - math.cos(math.pi * share))
        return peak * (settings.decay_to + (1 - settings.decay_to) * share)
    return peak
