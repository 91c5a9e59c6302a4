"""The network that is trained: loaded or made, given a MASK token, and written as a checkpoint that loads back."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import nbdiff_engine as nb
from nbdiff_engine.checkpoints import find_checkpoint
from nbdiff_engine.spec import CONFIG_KEY, DiffusionSpec
from training.errors import RecipeError

MASK_TOKEN = "<|mask|>"
# Names that tokenizers give to entries held in reserve.
_RESERVED = re.compile(r"^[<\[]\W*(unused|reserved|extra_id)[\w ]*?\d+\W*[>\]]$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A network being trained and what decoding must know of it. spec: None while it is AR alone."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: DiffusionSpec | None
    name: str
    dtype: torch.dtype  # of the final weights
    context_length: int
    eos_token_ids: tuple[int, ...]
    bos_before_template: bool = False

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write weights, config and tokenizer as a checkpoint of its own, in safetensors.

        dtype: of the weights as written; None leaves them as they are. The network itself does not change.
        """
        network, config = self.network, self.network.config
        own_dtype, own_spec = config.dtype, getattr(config, CONFIG_KEY, None)
        state = {
            name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
            for name, tensor in network.state_dict().items()
        }
        try:
            config.dtype = dtype or own_dtype
            if self.spec is not None:
                setattr(config, CONFIG_KEY, self.spec.model_dump(mode="json"))
            network.save_pretrained(folder, state_dict=state)
        finally:
            config.dtype = own_dtype
            if own_spec is not None:
                setattr(config, CONFIG_KEY, own_spec)
        self._save_tokenizer(folder)

    def _save_tokenizer(self, folder: Path) -> None:
        template = self.tokenizer.chat_template
        if self.bos_before_template and template:
            # The family's loader writes the BOS; a stock checkpoint has only its template to say so.
            self.tokenizer.chat_template = "{{ bos_token }}" + template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = template


def load_base(name: str, dtype: str = "float32", quantization: str | None = None, device: str = "auto") -> TrainedModel:
    """An AR checkpoint, or one already adapted, through the engine's own loader.

    Raises CheckpointError as `nbdiff_engine.load` does, and RecipeError for a checkpoint without a tokenizer.
    """
    saved = _saved_dtype(name)
    model = nb.load(name, dtype=dtype, device=device, quantization=quantization)
    if model.tokenizer is None:
        raise RecipeError(f"{model.name} has no tokenizer that loads here, so its training data cannot be encoded.")
    return TrainedModel(
        network=model.network,
        tokenizer=model.tokenizer,
        spec=model.spec,
        name=model.name,
        dtype=saved,
        context_length=model.context_length,
        eos_token_ids=tuple(sorted(model.eos_token_ids)),
        bos_before_template=model.bos_before_template,
    )


def with_spec(model: TrainedModel, block_size: int, context: str, token_shift: bool) -> TrainedModel:
    """The same network as a block-diffusion model: MASK chosen, spec settled.

    A checkpoint that has a spec already keeps its MASK, threshold and policy.
    """
    fields = model.spec.model_dump() if model.spec else {"mask_token_id": choose_mask_token(model)}
    grid = model.spec.block_grid if model.spec else "prompt_end"
    if grid != "prompt_end":
        raise RecipeError(
            f"{model.name} lays its blocks at absolute positions; adaptation lays them from the prompt's end. "
            "Start from its AR base instead."
        )
    fields |= {
        "block_size": block_size,
        "context": context,
        "token_shift": token_shift,
        "first_token": "ar" if token_shift else "masked",
        "sub_block_size": None,
    }
    return replace(model, spec=DiffusionSpec(**fields))


def choose_mask_token(model: TrainedModel) -> int:
    """The id of MASK in a checkpoint that has none: the tokenizer's own, else an unused row of the embedding, else
    a reserved entry of the tokenizer, else a new row. Its embedding starts at the mean of all."""
    tokenizer, network = model.tokenizer, model.network
    if tokenizer.mask_token_id is not None:
        return tokenizer.mask_token_id
    rows = network.get_input_embeddings().weight.shape[0]
    used = max(tokenizer.get_vocab().values()) + 1
    reserved = sorted((id_, text) for text, id_ in tokenizer.get_vocab().items() if _RESERVED.match(text))
    if used >= rows and reserved:
        tokenizer.add_special_tokens({"mask_token": reserved[0][1]})
        mask = reserved[0][0]
    else:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
        mask = tokenizer.mask_token_id
        if mask >= rows:
            network.resize_token_embeddings(mask + 1, mean_resizing=False)
    with torch.no_grad():
        weight = network.get_input_embeddings().weight
        others = torch.arange(len(weight), device=weight.device) != mask
        weight[mask] = weight[others].float().mean(dim=0).to(weight.dtype)
    return mask


def _saved_dtype(name: str) -> torch.dtype:
    config = json.loads((find_checkpoint(name) / "config.json").read_text(encoding="utf-8"))
    text = config.get("dtype") or config.get("torch_dtype") or "float32"
    dtype = getattr(torch, str(text), torch.float32)
    return torch.bfloat16 if dtype == torch.float16 else dtype  # trained in bf16's range, which float16 lacks
