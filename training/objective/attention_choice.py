"""Which attention a run trains with: by the recipe, the machine and the base."""

import logging
from typing import Literal

from transformers import PreTrainedModel

from training.errors import RecipeError
from training.objective.document_attention import DOCUMENTS

logger = logging.getLogger(__name__)

Attention = Literal["dense", "documents", "flex"]
_RUNS_ON = {"flex": "cuda", "documents": "cpu"}
_NAME_IN_TRANSFORMERS = {"flex": "flex_attention", "documents": DOCUMENTS}


def choose_attention(network: PreTrainedModel, wanted: Attention | Literal["auto"], device: str) -> Attention:
    """The attention that a run of this network uses; device: cpu, cuda or another type of torch's.

    FlexAttention has no backward pass on a CPU, and `documents` is made of a kernel for CPUs. Neither has dropout:
    on a CPU a base with dropout keeps to the dense mask, and on CUDA it loses the dropout.
    """
    if wanted != "auto":
        return wanted
    on_cpu: Attention = "dense" if _dropout(network) else "documents"
    return {"cuda": "flex", "cpu": on_cpu}.get(device, "dense")


def use_attention(network: PreTrainedModel, wanted: Attention | Literal["auto"], device: str) -> Attention:
    """Give a network the attention that `choose_attention` names, and return the name.

    Raises RecipeError for one that this machine or this base does not have.
    """
    chosen = choose_attention(network, wanted, device)
    home = _RUNS_ON.get(chosen, device)
    if home != device:
        raise RecipeError(
            f"attention is {chosen}, which runs on {home} alone, and this is {device}; set attention=auto."
        )
    dropout = _dropout(network)
    if chosen == "documents" and dropout:
        raise RecipeError(
            f"attention is documents, which has no dropout, and the base has {dropout:g}; set attention=dense."
        )
    if chosen == "flex":
        network.config.get_text_config().attention_dropout = 0.0
        for module in network.modules():
            if getattr(module, "attention_dropout", 0.0):  # layers took it from the config when they were made
                module.attention_dropout = 0.0
    if chosen != "dense":
        network.set_attn_implementation(_NAME_IN_TRANSFORMERS[chosen])
    logger.info("attention: %s", chosen)
    return chosen


def _dropout(network: PreTrainedModel) -> float:
    return getattr(network.config.get_text_config(), "attention_dropout", 0.0)
