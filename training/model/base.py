"""The network that is trained: loaded or made, given a MASK token, and written as a checkpoint that loads back."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import nbdiff_engine as nb
from nbdiff_engine.model.description import CheckpointDescription
from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec
from training.errors import RecipeError

MASK_TOKEN = "<|mask|>"
# Names that tokenizers give to entries held in reserve.
_RESERVED = re.compile(r"[<\[]\W*(unused|reserved|extra_id|placeholder|dummy|special)[\w ]*?\d+\W*[>\]]", re.IGNORECASE)


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

    @classmethod
    def of(cls, described: CheckpointDescription, network: PreTrainedModel) -> Self:
        """A checkpoint's network, its weights read or on the meta device, with what is known of the checkpoint.

        Raises RecipeError for a checkpoint without a tokenizer.
        """
        tokenizer = described.tokenizer
        if tokenizer is None:
            raise RecipeError(
                f"{described.label} has no tokenizer that loads here, so its training data cannot be encoded."
            )
        own = tokenizer.eos_token_id
        return cls(
            network=network,
            tokenizer=tokenizer,
            spec=described.spec,
            name=described.label,
            dtype=trained_dtype(described.saved_dtype),
            context_length=described.full_attention_length,
            # The first is the one that is written where a document has none.
            eos_token_ids=tuple(sorted(described.eos_token_ids, key=lambda each: (each != own, each))),
            bos_before_template=described.bos_before_template,
        )

    @property
    def own_mask(self) -> int | None:
        """The id of MASK that the checkpoint came with: its spec's, else its tokenizer's; None where it has none."""
        if self.spec is not None:
            return self.spec.mask_token_id
        own = self.tokenizer.mask_token_id
        return None if own == self.tokenizer.unk_token_id else own

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write weights, config and tokenizer as a checkpoint, in safetensors.

        dtype: of the weights as written; None leaves them as they are. The network itself does not change.
        """
        network, config = self.network, self.network.config
        before = (config.dtype, getattr(config, CONFIG_KEY, None))
        if self.spec is not None:
            setattr(config, CONFIG_KEY, self.spec.model_dump(mode="json"))
        try:
            network.save_pretrained(folder, state_dict=_cast(network.state_dict(), dtype))
            # save_pretrained writes the live network's dtype, whatever the tensors it was given are in.
            config.dtype = dtype or before[0]
            config.save_pretrained(folder)
        finally:
            config.dtype = before[0]
            if before[1] is not None:
                setattr(config, CONFIG_KEY, before[1])
            elif self.spec is not None:
                delattr(config, CONFIG_KEY)
        self._save_tokenizer(folder)

    def _save_tokenizer(self, folder: Path) -> None:
        template = self.tokenizer.chat_template
        if self.bos_before_template and isinstance(template, str) and not self._template_writes_bos():
            # The family's loader writes the BOS; a stock checkpoint has only its template to say so.
            self.tokenizer.chat_template = "{{ bos_token }}" + template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = template

    def _template_writes_bos(self) -> bool:
        """Whether there is no BOS to write, or a prompt begins with it already."""
        bos = self.tokenizer.bos_token
        if bos is None:
            return True
        turns = [{"role": "user", "content": "?"}]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception:  # whatever a template raises: it is the checkpoint's own program
            return False
        return text.startswith(bos)


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The tensors in `dtype`. Names that share one tensor share one again, or tied weights would be saved twice."""
    if dtype is None:
        return state
    done: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for tensor in state.values():
        key = (tensor.data_ptr(), tensor.shape)
        if key not in done:
            done[key] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return {name: done[tensor.data_ptr(), tensor.shape] for name, tensor in state.items()}


def load_base(
    name: str, dtype: torch.dtype | None = None, quantization: str | None = None, device: str = "auto"
) -> TrainedModel:
    """An AR checkpoint, or one already adapted, through the engine's own loader.

    dtype: of the network; None is the checkpoint's own, bfloat16 instead of float16.
    Raises CheckpointError as `nbdiff_engine.load` does, and RecipeError for a checkpoint without a tokenizer.
    """
    described = nb.describe(name)
    text = str(dtype or trained_dtype(described.saved_dtype)).removeprefix("torch.")
    loaded = nb.load(described, dtype=text, device=device, quantization=quantization, for_training=True)
    # A published checkpoint's own names of tensors would otherwise come back in what is saved as a stock model.
    loaded.network._weight_conversions = None
    return TrainedModel.of(described, loaded.network)


def trained_dtype(saved: str) -> torch.dtype:
    """The dtype in which a checkpoint is trained and saved again: its own, but bfloat16 instead of float16, whose range
    is too small for training, and float32 instead of float64."""
    return torch.bfloat16 if saved in ("float16", "bfloat16") else torch.float32


def with_spec(model: TrainedModel, block_size: int, context: str, token_shift: bool) -> TrainedModel:
    """The same network as a block-diffusion model: MASK chosen, spec complete.

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
    """The id of MASK in a checkpoint that has none; the tokenizer then knows it as its mask token.

    The tokenizer's own mask token, else an unused row of the embedding, else a reserved entry of the tokenizer,
    else a new row. Apart from the first, which the base may know, it starts at the mean embedding. Nothing
    here is random: a resumed run of adapters makes the same base again.
    """
    tokenizer, network = model.tokenizer, model.network
    rows = network.get_input_embeddings().weight.shape[0]
    if (own := model.own_mask) is not None:
        if own >= rows:
            _add_rows(network, own + 1)
        return own
    vocabulary = tokenizer.get_vocab()
    reserved = _reserved_entries(model)
    if max(vocabulary.values()) + 1 >= rows and reserved:
        tokenizer.add_special_tokens({"mask_token": reserved[0]})
    else:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    mask = tokenizer.mask_token_id
    if any(id_ == mask for text, id_ in vocabulary.items() if text != tokenizer.mask_token):
        raise RecipeError(f"The tokenizer of {model.name} has gaps in its ids and gives MASK one that is taken.")
    if mask >= rows:
        _add_rows(network, mask + 1)
    else:
        weight = network.get_input_embeddings().weight
        with torch.no_grad():
            others = weight.sum(dim=0, dtype=torch.float32) - weight[mask].float()
            weight[mask] = (others / (rows - 1)).to(weight.dtype)
    return mask


def _reserved_entries(model: TrainedModel) -> list[str]:
    """Entries of the tokenizer that nothing uses, lowest id first.

    Names are no proof: a chat template may write its roles with entries that are called unused.
    """
    tokenizer = model.tokenizer
    template = str(tokenizer.chat_template or "")
    taken = {text for text in tokenizer.special_tokens_map.values() if isinstance(text, str)}
    taken |= set(tokenizer.convert_ids_to_tokens(list(model.eos_token_ids)))
    entries = sorted((id_, text) for text, id_ in tokenizer.get_vocab().items() if _RESERVED.fullmatch(text))
    return [text for _, text in entries if text not in template and text not in taken]


def _add_rows(network: PreTrainedModel, rows: int) -> None:
    """Grow the vocabulary to `rows`. New rows of the embedding, and of an untied head, are the mean of the old ones."""
    before = network.get_input_embeddings().weight.shape[0]
    network.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
            old, new = layer.weight[:before], layer.weight[before:]
            new.copy_(old.mean(dim=0, dtype=torch.float32))
