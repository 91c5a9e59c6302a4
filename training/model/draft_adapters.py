"""Draft adapters: LoRA that is active at noise rows only, and the embedding of MASK, which the base does not have.

The tokenizer and the embedding of the base stay as they are: MASK is a separate vector, read through `inputs_embeds`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel

from nbdiff_engine.model.draft_spec import MASK_EMBEDDING, NOISE_WEIGHTS, BaseIdentity, DraftSpec, fingerprint_of
from nbdiff_engine.model.weight_files import ADAPTER_WEIGHTS
from training.errors import RecipeError
from training.model.adapters import add_adapters, recorded_name, rewrite_config
from training.model.base import TrainedModel, load_base
from training.recipe.recipe import Recipe

if TYPE_CHECKING:
    from peft import PeftModel

_ROWS = 4096  # embeddings that are summed at once


@dataclass(frozen=True, slots=True)
class TrainedDraftAdapter:
    """A draft adapter in training. mask_embedding: float32 [D]; None for uniform noise.

    identity: None for a quantised base, whose weights are not those of its checkpoint.
    """

    peft: "PeftModel"
    mask_embedding: nn.Parameter | None
    identity: BaseIdentity | None


def add_draft_adapter(model: TrainedModel, recipe: Recipe) -> TrainedDraftAdapter:
    """Add a draft adapter to the network of a base, in place; its weights do not change.

    Raises RecipeError for LoRA settings that do not fit.
    """
    lora, network = recipe.lora, model.network
    if lora.use_dora or lora.init.startswith(("pissa", "olora")):
        raise RecipeError(
            f"lora.{'use_dora is set' if lora.use_dora else f'init is {lora.init}'}, which changes the weights of the "
            "base; a draft adapter leaves them as they are. Leave it out."
        )
    identity = None if recipe.quantization else _identity(recipe, network)
    mask_embedding = nn.Parameter(_mean_embedding(network)) if recipe.draft.noise == "mask" else None
    return TrainedDraftAdapter(add_adapters(network, lora, None, recipe.seed), mask_embedding, identity)


def save_draft_adapter(
    adapter: TrainedDraftAdapter, recipe: Recipe, vocabulary: int, dtype: torch.dtype, folder: Path
) -> None:
    """Write the adapter as a folder: PEFT's two files, the DraftSpec, and for MASK noise its embedding.

    vocabulary: token ids of the base, from which uniform noise is drawn by default. dtype: of the written weights. For
    a quantised base, the base is read again without quantisation, to know its fingerprint.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # `save_embedding_layers` would otherwise ask the hub for the size of the base's vocabulary.
    tensors = get_peft_model_state_dict(adapter.peft, save_embedding_layers=False)
    tensors = {name: each.detach().to("cpu", dtype).contiguous() for name, each in tensors.items()}
    adapter.peft.save_pretrained(str(folder), save_embedding_layers=False)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    rewrite_config(folder, base_model_name_or_path=recorded_name(recipe.base))
    if adapter.mask_embedding is not None:
        embedding = adapter.mask_embedding.detach().to("cpu", dtype).contiguous()
        save_file({MASK_EMBEDDING: embedding}, folder / NOISE_WEIGHTS, metadata={"format": "pt"})
    identity = adapter.identity or _identity(recipe, load_base(recipe.base, device="cpu").network)
    draft = recipe.draft
    DraftSpec(
        noise=draft.noise,
        noise_attention=draft.noise_attention,
        block_size=recipe.blocks.b_max,
        noise_high=draft.high(vocabulary),
        base=identity,
    ).write(folder)


def _identity(recipe: Recipe, network: PreTrainedModel) -> BaseIdentity:
    return BaseIdentity(
        name=recorded_name(recipe.base),
        model_type=network.config.model_type,
        parameters=sum(each.numel() for each in network.parameters()),
        fingerprint=fingerprint_of(network),
    )


@torch.no_grad()
def _mean_embedding(network: PreTrainedModel) -> torch.Tensor:
    """The mean of what the network reads for a token, float32 [D]. Some families scale the rows of their embedding."""
    layer = network.get_input_embeddings()
    ids = torch.arange(layer.weight.shape[0], device=layer.weight.device)
    return sum(layer(part).float().sum(dim=0) for part in ids.split(_ROWS)) / len(ids)
