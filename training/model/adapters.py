"""LoRA on a frozen base, whose embedding of MASK is also trained. peft is imported only if it is used."""

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from nbdiff_engine.errors import brief, brief_text
from nbdiff_engine.model import lora_folders
from nbdiff_engine.model.checkpoint_folders import bundled_models
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from training.errors import RecipeError
from training.model.base import TrainedModel, load_base, with_spec
from training.recipe.recipe import Lora, Recipe

if TYPE_CHECKING:
    from peft import PeftModel

ALL_LINEAR = "all-linear"
_DEFAULT_INIT = "default"
_INITS_WITH_MORE = {"eva", "corda", "loftq", "mica"}  # need data or settings, or freeze a part of each adapter
_SUBTRACTING = ("pissa", "olora")  # these change the weights of the base


def add_adapters(network: PreTrainedModel, lora: Lora, mask_token_id: int | None, seed: int) -> "PeftModel":
    """Add adapters to `network`, in place, and return the PeftModel around it. Adapters are float32 for every base.

    PiSSA and OLoRA subtract the first values of the adapters from the weights of the base, in its dtype. Of the
    base, only the embedding of MASK is trained, because the base was not trained with MASK. If the head is tied to the
    embedding, its row for MASK is trained too. mask_token_id: None for a base without MASK. Raises RecipeError if LoRA
    does not fit the network.
    """
    from peft import LoraConfig, get_peft_model

    targets = _targets(network, lora)
    embedding = next(name for name, module in network.named_modules() if module is network.get_input_embeddings())
    trained_rows = None if mask_token_id is None else {embedding.rsplit(".", 1)[-1]: [mask_token_id]}
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=_init(network, lora),
        trainable_token_indices=trained_rows,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft, about new names in transformers
            adapters = get_peft_model(network, config, autocast_adapter_dtype=True)
    except (ValueError, TypeError) as error:  # PiSSA refuses a quantised base with a TypeError
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


def init_names() -> tuple[str, ...]:
    """The values of `lora.init`: those of peft that need neither data nor other settings."""
    from peft import LoraConfig

    literal = next(each for each in get_args(get_type_hints(LoraConfig)["init_lora_weights"]) if get_args(each))
    plain = {name for name in get_args(literal) if name.isalpha()}  # not "pissa_niter_[number of iters]"
    return (_DEFAULT_INIT, *sorted(plain - _INITS_WITH_MORE))


def _init(network: PreTrainedModel, lora: Lora) -> bool | str:
    """peft's value for `lora.init`. Raises RecipeError if peft does not know it, or if it does not fit."""
    names = init_names()
    if lora.init not in names and not re.fullmatch(r"pissa_niter_\d+", lora.init):
        raise RecipeError(
            f"lora.init is {brief(lora.init)}; choose one of {', '.join(names)}, pissa_niter_16 (or another number)."
        )
    if lora.init.startswith(_SUBTRACTING):
        if lora.use_dora:
            raise RecipeError(
                f"lora.init is {lora.init}, which changes the weights whose norm lora.use_dora trains; turn use_dora "
                "off or choose init gaussian."
            )
        if getattr(network, "is_quantized", False):
            raise RecipeError(
                f"lora.init is {lora.init}, which needs the weights of an unquantised base; leave quantization out or "
                "choose init gaussian."
            )
    # The values do not matter without weights, where a decomposition cannot be computed.
    return True if lora.init == _DEFAULT_INIT or network.device.type == "meta" else lora.init


def save_adapter(adapters: "PeftModel", model: TrainedModel, recipe: Recipe, folder: Path) -> None:
    """Write the adapters as a PEFT folder, which `PeftModel.from_pretrained` reads on the unchanged base.

    For PiSSA and OLoRA these are adapters of twice the rank: trained minus first values, as the base is unchanged.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # `save_embedding_layers` would otherwise ask the hub for the size of the base's vocabulary.
    adapters.save_pretrained(str(folder), save_embedding_layers=False)
    changes = {"base_model_name_or_path": recorded_name(recipe.base)}
    if recipe.lora.init.startswith(_SUBTRACTING):
        plain = _plain_base(recipe)
        first = add_adapters(plain.network, recipe.lora, model.spec.mask_token_id, recipe.seed)
        before, tensors = (get_peft_model_state_dict(each, save_embedding_layers=False) for each in (first, adapters))
        for name, tensor in tensors.items():
            old = before[name].to(tensor.device)
            if "lora_A" in name:
                tensor = torch.cat([tensor, old], dim=0)
            elif "lora_B" in name:
                tensor = torch.cat([tensor, -old], dim=1)
            tensors[name] = tensor.detach().contiguous().cpu()
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        scale = 2**0.5 if recipe.lora.use_rslora else 2  # keeps alpha / rank, or alpha / sqrt(rank)
        changes |= {"init_lora_weights": True, "r": 2 * recipe.lora.rank, "lora_alpha": scale * recipe.lora.alpha}
    rewrite_config(folder, **changes)


def recorded_name(base: str) -> str:
    """The name of a base in the files of an adapter: of a folder its absolute path, which holds in any directory."""
    if base in bundled_models() or base in PACKAGED_MODELS:
        return base
    path = Path(base).expanduser()
    return str(path.resolve()) if path.exists() else base


def rewrite_config(folder: Path, **changes: Any) -> None:
    """Change entries of the adapter_config.json that peft wrote."""
    file = folder / ADAPTER_CONFIG
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def merged(adapters: "PeftModel", model: TrainedModel, recipe: Recipe, dtype: torch.dtype) -> PreTrainedModel:
    """The network without PEFT layers, with the adapters merged into its weights, in `dtype`.

    `adapters` cannot be used afterwards. Each layer's sum of weight and adapter is computed in float32 and rounded
    once. A quantised base is loaded again unquantised, because a merge into 4-bit weights would round the sum to 4 bit.
    """
    return lora_folders.merged(adapters if recipe.quantization is None else _on_unquantised_base(model, recipe), dtype)


def _plain_base(recipe: Recipe) -> TrainedModel:
    """The unquantised base on the CPU, with its MASK."""
    objective = recipe.objective
    return with_spec(
        load_base(recipe.base, device="cpu"),
        recipe.blocks.b_max,
        objective.context,
        objective.token_shift,
        objective.mask_token,
        objective.pad_vocabulary_to,
    )


def _on_unquantised_base(model: TrainedModel, recipe: Recipe) -> "PeftModel":
    """The unquantised base on the CPU, with the trained adapters."""
    plain = _plain_base(recipe)
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
