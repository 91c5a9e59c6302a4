"""LoRA on a frozen base, whose embedding of MASK is also trained. peft is imported only if it is used."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from nbdiff_engine.errors import brief, brief_text
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
        adapters = get_peft_model(network, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise RecipeError(f"LoRA does not fit this network: {brief_text(str(error), 200)}") from error
    _compute_mask_logits_apart(network)
    return adapters


def _compute_mask_logits_apart(network: PreTrainedModel) -> None:
    """Let a tied head compute the logits of MASK from its trained row, and all others from the frozen weights.

    PEFT copies all weights of the head to put the one row into them, at each call: as many values as the logits of a
    chunk or more. The logits and gradients are the same.
    """
    from peft.utils import TrainableTokensWrapper

    head = network.get_output_embeddings()
    if not isinstance(head, TrainableTokensWrapper) or not isinstance(head.token_adapter.base_layer, nn.Linear):
        return  # the head is not tied: it has no trained row
    layer = head.token_adapter
    from_copy = layer.forward_adapters

    def forward_adapters(hidden: Tensor, active: Sequence[str], *args, **kwargs) -> Tensor:
        if layer.disable_adapters or layer.merged or len(active) != 1 or layer.base_layer.bias is not None:
            return from_copy(hidden, active, *args, **kwargs)
        logits = layer.base_layer(hidden)
        tokens = torch.tensor(layer.token_indices[active[0]], device=hidden.device)
        row = layer.trainable_tokens_delta[active[0]]
        # The trained row minus the frozen one: so the weights need no change, and the backward pass no copy of logits.
        change = F.linear(hidden, (row.float() - layer.base_layer.weight[tokens].float()).to(hidden.dtype))
        return logits.index_add_(-1, tokens, change.to(logits.dtype))

    layer.forward_adapters = forward_adapters


def merged(adapters: "PeftModel", model: TrainedModel, recipe: Recipe, dtype: torch.dtype) -> PreTrainedModel:
    """The network without PEFT layers, with the adapters merged into its weights, in `dtype`.

    `adapters` cannot be used afterwards. Each layer's sum of weight and adapter is computed in float32 and rounded
    once. A quantised base is loaded again unquantised, because a merge into 4-bit weights would round the sum to 4 bit.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    if recipe.quantization is not None:
        adapters = _on_unquantised_base(model, recipe)
    with torch.no_grad():
        for layer in adapters.modules():
            if isinstance(layer, BaseTunerLayer):
                weight = layer.get_base_layer().weight
                weight.data = weight.data.float()
                layer.merge()
                weight.data = weight.data.to(dtype)
    return adapters.unload().to(dtype)


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
