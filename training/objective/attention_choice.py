"""Choose the attention implementation of a run, by the recipe, the device and the base."""

import logging
from typing import Literal

from transformers import PreTrainedModel

from training.errors import RecipeError
from training.objective.document_attention import DOCUMENTS
from training.objective.draft_attention import DRAFTS

logger = logging.getLogger(__name__)

Attention = Literal["dense", "documents", "flex"]
_DEVICE_OF = {"flex": "cuda", "documents": "cpu"}
_NAME_IN_TRANSFORMERS = {"flex": "flex_attention", "documents": DOCUMENTS}


def choose_attention(network: PreTrainedModel, wanted: Attention | Literal["auto"], device: str) -> Attention:
    """The attention that a run of this network uses. device: a torch device type, such as cpu or cuda.

    FlexAttention has no backward pass on a CPU, and `documents` uses a kernel for CPUs. Neither supports dropout. So a
    base with dropout trains with the dense mask on a CPU, and without dropout on CUDA.
    """
    if wanted != "auto":
        return wanted
    on_cpu: Attention = "dense" if _dropout(network) else "documents"
    return {"cuda": "flex", "cpu": on_cpu}.get(device, "dense")


def use_attention(network: PreTrainedModel, wanted: Attention | Literal["auto"], device: str) -> Attention:
    """Set the network to the attention of `choose_attention`, and return its name.

    Raises RecipeError if the device or the base does not support it.
    """
    chosen = choose_attention(network, wanted, device)
    required = _DEVICE_OF.get(chosen, device)
    if required != device:
        raise RecipeError(
            f"attention is {chosen}, which runs only on {required}, but the device is {device}; set attention=auto."
        )
    dropout = _dropout(network)
    if chosen == "documents" and dropout:
        raise RecipeError(
            f"attention is documents, which has no dropout, but the base has {dropout:g}; set attention=dense."
        )
    if chosen == "flex":
        network.config.get_text_config().attention_dropout = 0.0
        for module in network.modules():
            if getattr(module, "attention_dropout", 0.0):  # layers copied it from the config when they were created
                module.attention_dropout = 0.0
    if chosen != "dense":
        network.set_attn_implementation(_NAME_IN_TRANSFORMERS[chosen])
    logger.info("attention: %s", chosen)
    return chosen


def use_draft_attention(
    network: PreTrainedModel, wanted: Attention | Literal["auto"], device: str
) -> Literal["dense", "documents"]:
    """Set the network to the attention of noise rows, and return how it is computed: as `dense` or as `documents`.

    Raises RecipeError if the device or the base does not support it.
    """
    on_cpu = "documents" if device == "cpu" and not _dropout(network) else "dense"
    chosen = on_cpu if wanted == "auto" else wanted
    if chosen not in ("dense", on_cpu):
        raise RecipeError(
            f"attention is {chosen}, but a draft adapter trains with {' or '.join(dict.fromkeys((on_cpu, 'dense')))} "
            "here; set attention=auto."
        )
    network.set_attn_implementation(DRAFTS)
    logger.info("attention: %s", chosen)
    return chosen


def _dropout(network: PreTrainedModel) -> float:
    return getattr(network.config.get_text_config(), "attention_dropout", 0.0)
