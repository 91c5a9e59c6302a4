"""The arithmetic of a run: bfloat16 where the device computes it fast, else float32."""

import torch

from nbdiff_engine.model.cpu_arithmetic import cpu_computes_bfloat16
from training.recipe.recipe import Recipe


def with_precision(recipe: Recipe, device: str) -> Recipe:
    """The recipe with bf16 or fp32 in place of precision auto. device: a torch device type, cuda or cpu.

    A CUDA device that is not there counts as one with bfloat16, as all of the last years have it.
    """
    if recipe.precision != "auto":
        return recipe
    if device == "cuda":
        fast = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = cpu_computes_bfloat16()
    return recipe.model_copy(update={"precision": "bf16" if fast else "fp32"})


def loads_float32(recipe: Recipe) -> bool:
    """Whether a base is loaded in float32, whatever its own dtype. recipe: with its precision chosen.

    Weights that are trained are float32. Frozen ones keep their dtype, unless the arithmetic is float32, because
    products of narrower weights are computed in the dtype of the weights.
    """
    return recipe.lora is None or (recipe.precision == "fp32" and recipe.quantization is None)
