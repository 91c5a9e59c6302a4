"""LoRA on a frozen base, with the mask token's embedding trained beside it. peft is imported where it is used."""

import torch
from transformers import PreTrainedModel

from nbdiff_engine.errors import brief_text
from training.errors import RecipeError
from training.recipe import Lora


def add_adapters(network: PreTrainedModel, lora: Lora, mask_token_id: int, seed: int):
    """Put adapters into `network`, in place; the PeftModel around it, which can merge them again.

    The embedding of MASK is the one row of the base that is trained: the base has never seen it.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils import prepare_model_for_kbit_training  # noqa: F401  (its casts are not wanted; see cure below)

    torch.manual_seed(seed)
    name = next(name for name, module in network.named_modules() if module is network.get_input_embeddings())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        trainable_token_indices={name.rsplit(".", 1)[-1]: [mask_token_id]},
    )
    try:
        return get_peft_model(network, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise RecipeError(f"LoRA does not fit this network: {brief_text(str(error), 200)}") from error


def keep_gradients_of_quantised_layers(network: PreTrainedModel) -> int:
    """Keep bitsandbytes' 4-bit layers on the path that has a backward pass; how many there are.

    On a CPU with AVX512-BF16, the first evaluation repacks a Linear4bit for a faster forward, after which it passes
    no gradient to its input: the layers below stop learning while the loss still falls. So the repacking is
    switched off before the first step.
    """
    import bitsandbytes

    layers = [each for each in network.modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)
