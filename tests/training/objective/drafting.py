"""Draft objectives on tiny models, with adapters that are not zero."""

import torch
from torch import nn

from tests.draft_adapters import identity_of
from tests.tiny import tiny_model
from training.model.adapters import add_adapters
from training.model.draft_adapters import TrainedDraftAdapter
from training.objective.draft_attention import DRAFTS
from training.objective.draft_losses import Weights
from training.objective.draft_noising import DraftBatch, DraftNoising, draft_noise
from training.objective.draft_objective import DraftObjective
from training.objective.noising import Packed
from training.recipe.recipe import Lora


def draft_adapter(family: str = "llama", zero: bool = False, mask: bool = True, **shape) -> TrainedDraftAdapter:
    """zero: leave the adapter as it begins, without effect."""
    network = tiny_model(family, **shape).network
    identity = identity_of(network, f"tiny-{family}")
    torch.manual_seed(1)
    embedding = nn.Parameter(torch.randn(network.config.hidden_size) * 0.4) if mask else None
    peft = add_adapters(network, Lora(rank=4, alpha=8), None, 0)
    if not zero:
        with torch.no_grad():
            for name, each in network.named_parameters():
                if "lora_B" in name:
                    each.normal_(std=0.2)
    return TrainedDraftAdapter(peft, embedding, identity)


def draft_objective(
    family: str = "llama",
    causal: bool = False,
    plans: bool = True,
    weights: Weights | None = None,
    **options,
) -> DraftObjective:
    """options: of `draft_adapter`."""
    return objective_of(draft_adapter(family, **options), causal, plans, weights)


def objective_of(
    adapter: TrainedDraftAdapter, causal: bool, plans: bool = True, weights: Weights | None = None
) -> DraftObjective:
    network = adapter.peft.base_model.model
    network.set_attn_implementation(DRAFTS)
    network.train()
    return DraftObjective(adapter.peft, network, weights or Weights(), causal, adapter.mask_embedding, plans)


def draft_batch(rows: Packed, block_size: int = 4, seed: int = 0, **options) -> DraftBatch:
    return draft_noise(rows, DraftNoising(block_size, **options), torch.Generator().manual_seed(seed))
