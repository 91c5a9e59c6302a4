"""The network that is trained: it is loaded, gets a MASK token, and is saved as a checkpoint."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import nbdiff_engine as nb
from nbdiff_engine.errors import brief
from nbdiff_engine.model.description import CheckpointDescription
from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec
from nbdiff_engine.model.vocabulary_rows import add_rows
from training.errors import RecipeError

MASK_TOKEN = "<|mask|>"
# Usual names of the reserved entries of a tokenizer.
_RESERVED = re.compile(r"[<\[]\W*(unused|reserved|extra_id|placeholder|dummy|special)[\w ]*?\d+\W*[>\]]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A network in training, with what decoding needs besides it. spec: None for a model without block diffusion."""

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
        """A network with the description of its checkpoint. network: with weights, or on the meta device.

        Raises RecipeError for a checkpoint without a tokenizer.
        """
        tokenizer = described.tokenizer
        if tokenizer is None:
            raise RecipeError(
                f"{described.label} has no tokenizer that can be loaded, so training data cannot be encoded."
            )
        tokenizer_eos = tokenizer.eos_token_id
        return cls(
            network=network,
            tokenizer=tokenizer,
            spec=described.spec,
            name=described.label,
            dtype=trained_dtype(described.saved_dtype),
            context_length=described.full_attention_length,
            # The first is appended to a document without an EOS.
            eos_token_ids=tuple(sorted(described.eos_token_ids, key=lambda each: (each != tokenizer_eos, each))),
            bos_before_template=described.bos_before_template,
        )

    @property
    def own_mask(self) -> int | None:
        """The id of the checkpoint's MASK: that of its spec, else that of its tokenizer; None if it has neither."""
        if self.spec is not None:
            return self.spec.mask_token_id
        own = self.tokenizer.mask_token_id
        return None if own == self.tokenizer.unk_token_id else own

    def save(
        self, folder: Path, dtype: torch.dtype | None = None, state: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Write weights (as safetensors), config and tokenizer as a checkpoint. The network does not change.

        dtype: of the saved weights; None: that of the network. state: the weights, if the network has only a part of
        them; None: its own.
        """
        network, config = self.network, self.network.config
        before = (config.dtype, getattr(config, CONFIG_KEY, None))
        if self.spec is not None:
            setattr(config, CONFIG_KEY, self.spec.model_dump(mode="json"))
        try:
            network.save_pretrained(folder, state_dict=_cast(dict(state or network.state_dict()), dtype))
            # save_pretrained writes the network's dtype into the config, not that of the state_dict.
            config.dtype = dtype or before[0]
            config.save_pretrained(folder)
        finally:
            config.dtype = before[0]
            if before[1] is not None:
                setattr(config, CONFIG_KEY, before[1])
            elif self.spec is not None:
                delattr(config, CONFIG_KEY)
        self.save_tokenizer(folder)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer and its chat template, which writes the BOS where decoding needs one."""
        template = self.tokenizer.chat_template
        if self.bos_before_template and isinstance(template, str) and not self._template_writes_bos():
            # For this family, our loader adds the BOS. In the saved checkpoint the template must write it.
            self.tokenizer.chat_template = "{{ bos_token }}" + template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = template

    def _template_writes_bos(self) -> bool:
        """Whether the template needs no BOS: a prompt already begins with it, or the tokenizer has none."""
        bos = self.tokenizer.bos_token
        if bos is None:
            return True
        turns = [{"role": "user", "content": "?"}]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception:  # the template is a program of the checkpoint and may raise any exception
            return False
        return text.startswith(bos)


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The tensors in `dtype`. Tied weights stay tied, so that they are saved once."""
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
    """Load an AR checkpoint, or an already adapted one, with the loader of the engine.

    dtype: of the network; None: `trained_dtype` of the checkpoint's dtype.
    Raises CheckpointError as `nbdiff_engine.load` does, and RecipeError for a checkpoint without a tokenizer.
    """
    described = nb.describe(name)
    text = str(dtype or trained_dtype(described.saved_dtype)).removeprefix("torch.")
    loaded = nb.load(described, dtype=text, device=device, quantization=quantization, for_training=True)
    # Otherwise save_pretrained would use the tensor names of the loaded checkpoint, not those of transformers.
    loaded.network._weight_conversions = None
    return TrainedModel.of(described, loaded.network)


def trained_dtype(saved: str) -> torch.dtype:
    """The dtype for training and saving a checkpoint of dtype `saved`.

    bfloat16 replaces float16, whose range is too small for training; all other dtypes become float32.
    """
    return torch.bfloat16 if saved in ("float16", "bfloat16") else torch.float32


def with_spec(
    model: TrainedModel,
    block_size: int,
    context: str,
    token_shift: bool,
    mask_token: str | None = None,
    pad_vocabulary_to: int | None = None,
) -> TrainedModel:
    """The same network as a block-diffusion model, with a MASK and a complete spec.

    A checkpoint with a spec keeps its MASK, threshold and policy. mask_token, pad_vocabulary_to: as in
    `choose_mask_token`. Raises RecipeError if its blocks are at absolute positions, or for a wrong mask_token.
    """
    mask = choose_mask_token(model, mask_token, pad_vocabulary_to)
    fields = model.spec.model_dump() if model.spec else {"mask_token_id": mask}
    grid = model.spec.block_grid if model.spec else "prompt_end"
    if grid != "prompt_end":
        raise RecipeError(
            f"The blocks of {model.name} are at absolute positions, but adaptation starts them at the prompt's end; "
            "use its AR base instead."
        )
    fields |= {
        "block_size": block_size,
        "context": context,
        "token_shift": token_shift,
        "first_token": "ar" if token_shift else "masked",
        "sub_block_size": None,
    }
    return replace(model, spec=DiffusionSpec(**fields))


def choose_mask_token(model: TrainedModel, name: str | None = None, multiple: int | None = None) -> int:
    """Choose the id of MASK, and make it the mask token of the tokenizer.

    It is the checkpoint's own MASK, else an unused row of the embedding, else a reserved entry of the tokenizer, else a
    new row. The embedding of the last three is set to the mean of the others. Nothing is random, so a resumed run of
    adapters gets the same base. name: the token to use instead; it is added if the tokenizer does not have it.
    multiple: if MASK needs a new row, the number of rows becomes a multiple of this.
    Raises RecipeError if `name` has another use, or if the tokenizer gives MASK the id of another token.
    """
    tokenizer, network = model.tokenizer, model.network
    rows = network.get_input_embeddings().weight.shape[0]
    vocabulary = tokenizer.get_vocab()
    own = model.own_mask
    if name is not None and (own is None or vocabulary.get(name) != own):
        _check_mask_name(model, name)
        own = None
    if own is not None:
        if own >= rows:
            add_rows(network, _rounded_up(own + 1, multiple))
        return own
    reserved = _reserved_entries(model)
    if name is not None:
        tokenizer.add_special_tokens({"mask_token": name})
    elif max(vocabulary.values()) + 1 >= rows and reserved:
        tokenizer.add_special_tokens({"mask_token": reserved[0]})
    else:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    mask = tokenizer.mask_token_id
    if any(id_ == mask for text, id_ in vocabulary.items() if text != tokenizer.mask_token):
        raise RecipeError(f"The tokenizer of {model.name} has gaps in its ids and gives MASK the id of another token.")
    if mask >= rows:
        add_rows(network, _rounded_up(mask + 1, multiple))
    else:
        weight = network.get_input_embeddings().weight
        with torch.no_grad():
            sum_of_others = weight.sum(dim=0, dtype=torch.float32) - weight[mask].float()
            weight[mask] = (sum_of_others / (rows - 1)).to(weight.dtype)
    return mask


def _check_mask_name(model: TrainedModel, name: str) -> None:
    """Raise RecipeError if the token that the recipe names as MASK has another use in the checkpoint."""
    if model.spec is not None:
        own = model.tokenizer.convert_ids_to_tokens(model.spec.mask_token_id)
        raise RecipeError(
            f"objective.mask_token is {brief(name)}, but {model.name} is a block-diffusion model whose MASK is "
            f"{brief(own)}; leave the setting out."
        )
    if name in _used_tokens(model) or name in str(model.tokenizer.chat_template or ""):
        raise RecipeError(
            f"objective.mask_token is {brief(name)}, which {model.name} uses otherwise (as a special token or in its "
            "chat template); name an unused token or a new one."
        )


def _used_tokens(model: TrainedModel) -> set[str]:
    """The special tokens of the checkpoint, among them all its EOS, but not its mask token."""
    tokenizer = model.tokenizer
    named = {role: text for role, text in tokenizer.special_tokens_map.items() if role != "mask_token"}
    used = {text for text in named.values() if isinstance(text, str)}
    return used | set(tokenizer.convert_ids_to_tokens(list(model.eos_token_ids)))


def _rounded_up(rows: int, multiple: int | None) -> int:
    return -(-rows // (multiple or 1)) * (multiple or 1)


def _reserved_entries(model: TrainedModel) -> list[str]:
    """Reserved entries of the tokenizer that are really unused, lowest id first.

    The name is not enough: a chat template may mark its roles with entries named "unused".
    """
    tokenizer = model.tokenizer
    template = str(tokenizer.chat_template or "")
    used = _used_tokens(model)
    entries = sorted((id_, text) for text, id_ in tokenizer.get_vocab().items() if _RESERVED.fullmatch(text))
    return [text for _, text in entries if text not in template and text not in used]
