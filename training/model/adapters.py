"""LoRA on a frozen base, whose embedding of MASK is also trained. peft is imported only if it is used."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from nbdiff_engine.errors import brief, brief_text
from nbdiff_engine.model import lora_folders
from training.errors import RecipeError
from training.model.base import TrainedModel, load_base, with_spec
from training.recipe.recipe import Lora, Recipe

if TYPE_CHECKING:
    from peft import PeftModel

ALL_LINEAR = "all-linear"


def add_adapters(network: PreTrainedModel, lora: Lora, mask_token_id: int, seed: int) -> "PeftModel":
    """Add adapters to `network`, in place, and return the PeftModel around it. Adapters are float32 for every base.

    Of the base, only the embedding of MASK is trained, because the base was not trained with MASK. If the head is
    tied to the embedding, its row for MASK is trained too. Raises RecipeError if LoRA does not fit the network.
    """
    from peft import LoraConfig, get_peft_model

    targets = _targets(network, lora)
    embedding = next(name for name, module in network.named_modules() if module is network.get_input_embeddings())
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        trainable_token_indices={embedding.rsplit(".", 1)[-1]: [mask_token_id]},
    )
    try:
        return get_peft_model(network, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise RecipeError(f"LoRA does not fit this network: {brief_text(str(error), 200)}") from error


def merged(adapters: "PeftModel", model: TrainedModel, recipe: Recipe, dtype: torch.dtype) -> PreTrainedModel:
    """The network without PEFT layers, with the adapters merged into its weights, in `dtype`.

    `adapters` cannot be used afterwards. Each layer's sum of weight and adapter is computed in float32 and rounded
    once. A quantised base is loaded again unquantised, because a merge into 4-bit weights would round the sum to 4 bit.
    """
    return lora_folders.merged(adapters if recipe.quantization is None else _on_unquantised_base(model, recipe), dtype)


def _on_unquantised_base(model: TrainedModel, recipe: Recipe) -> "PeftModel":
    """The unquantised base on the CPU, with the trained adapters."""
    objective = recipe.objective
    plain = load_base(recipe.base, device="cpu")
    plain = with_spec(plain, recipe.blocks.b_max, objective.context, objective.token_shift)
    adapters = add_adapters(plain.network, recipe.lora, model.spec.mask_token_id, recipe.seed)
    trained = dict(model.network.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.network.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(trained[name])
    return adapters


def _targets(network: PreTrainedModel, lora: Lora) -> str | list[str]:
    """The recipe's targets. Raises RecipeError if one is not the name of a linear layer other than the head."""
    if lora.targets == ALL_LINEAR:
        return ALL_LINEAR
    targets = [lora.targets] if isinstance(lora.targets, str) else list(lora.targets)
    outer = (network.get_input_embeddings(), network.get_output_embeddings())
    inner = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and not any(module is each for each in outer)
    }
    choices = dict.fromkeys(name.rsplit(".", 1)[-1] for name in inner)
    for target in targets or [""]:
        if not any(name == target or name.endswith(f".{target}") for name in inner):
            raise RecipeError(
                f"lora.targets names {brief(target)}, and no layer has that name; "
                f"choose {ALL_LINEAR} or some of {', '.join(choices)}."
            )
    return targets
