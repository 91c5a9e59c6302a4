"""The description of a checkpoint, from its small files only: config, spec, tokenizer, context, EOS. Reads no weights.

`load` uses it, and so does code that describes a checkpoint without its weights: the list of models, and the preview
and the estimate of a training run.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from nbdiff_engine.errors import CheckpointError, brief, brief_text
from nbdiff_engine.model.checkpoint_folders import bundled_models, find_checkpoint, label_of, read_json
from nbdiff_engine.model.families import FAMILIES, NOT_NATIVE, Family
from nbdiff_engine.model.layer_kinds import context_length_of, full_attention_length_of
from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec

logger = logging.getLogger(__name__)

_DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, slots=True)
class CheckpointDescription:
    """A checkpoint without its weights. `describe` creates it."""

    label: str  # its name in messages: a bundled name, or the folder or hub id as given
    folder: Path
    model_type: str  # as config.json names it
    config: PreTrainedConfig  # of the stock transformers class of its network
    family: Family | None  # None: a stock model type
    spec: DiffusionSpec | None  # None: an AR checkpoint
    tokenizer: PreTrainedTokenizerBase | None  # None: it has none that loads without remote code
    eos_token_ids: frozenset[int]  # the tokens that end an answer; empty if the checkpoint names none
    saved_dtype: str  # of its weights, as config.json names it

    @property
    def context_length(self) -> int:
        """Positions this checkpoint can hold. Raises CheckpointError if its config does not give a limit."""
        return context_length_of(self.config, self.label)

    @property
    def full_attention_length(self) -> int:
        """Positions up to which every layer sees its whole context: the limit of training. Raises as above."""
        return full_attention_length_of(self.config, self.label)

    @property
    def bos_before_template(self) -> bool:
        """Whether a BOS is put before the text that the chat template renders."""
        return self.family is not None and self.family.bos_before_template

    @property
    def parameters(self) -> int:
        """Number of values in all its tensors, from the headers of the files; 0 if it has no safetensors."""
        count = 0
        for path in self.folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as weights:
                count += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
        return count


def describe(name: str | os.PathLike[str]) -> CheckpointDescription:
    """Describe a checkpoint without reading its weights.

    name: as in `load`. A hub id that is not in the local cache is downloaded, including its weights.

    Raises CheckpointError with one sentence if these files are missing or damaged, or the model type is unknown.
    """
    folder = find_checkpoint(name)
    label = label_of(name, folder)
    fields = read_json(folder)
    family = FAMILIES.get(str(fields.get("model_type")))
    tokenizer = _tokenizer(folder, label, family)
    if family is not None:
        fields = {**fields, CONFIG_KEY: family.diffusion_fields(fields, getattr(tokenizer, "mask_token_id", None))}
    spec = DiffusionSpec.from_config(fields, label)
    saved_dtype = saved_dtype_of(fields, label)
    config = stock_config(folder, fields, label)
    generation = _generation_config(folder, fields, config, label)
    eos_token_ids = eos_token_ids_of(generation, config, tokenizer, label)
    if spec is not None:
        spec.check_eos(eos_token_ids, label)
    return CheckpointDescription(
        label=label,
        folder=folder,
        model_type=str(fields.get("model_type")),
        config=config,
        family=family,
        spec=spec,
        tokenizer=tokenizer,
        eos_token_ids=eos_token_ids,
        saved_dtype=saved_dtype,
    )


@dataclass(frozen=True, slots=True)
class BundledModel:
    """One line of `nbdiff models`."""

    name: str
    folder: str
    architecture: str
    parameters: int
    dtype: str
    block_size: int | None  # None: an AR checkpoint


def describe_bundled() -> list[BundledModel]:
    """One BundledModel for each bundled checkpoint."""
    return [
        BundledModel(
            name=name,
            folder=str(each.folder),
            architecture=(each.config.architectures or ["unknown"])[0],
            parameters=each.parameters,
            dtype=each.saved_dtype,
            block_size=None if each.spec is None else each.spec.block_size,
        )
        for name, each in ((name, describe(name)) for name in bundled_models())
    ]


# -- single facts -------------------------------------------------------------------------------------------


def eos_token_ids_of(
    generation: GenerationConfig, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None, label: str
) -> frozenset[int]:
    """The tokens that end an answer, from the first of generation config, config and tokenizer that names any; empty
    if none does.

    Raises CheckpointError for an EOS that is neither a token id nor a list of token ids.
    """
    ids = generation.eos_token_id
    if ids is None:
        ids = config.eos_token_id
    if ids is None and tokenizer is not None:
        ids = tokenizer.eos_token_id
    ids = [ids] if isinstance(ids, int) else ids or []
    if not all(isinstance(each, int) for each in ids):
        raise CheckpointError(f"The EOS of {label} is {brief(ids)}; it must be a token id or a list of them.")
    return frozenset(ids)


def saved_dtype_of(fields: Mapping[str, Any], label: str) -> str:
    """The dtype that config.json names; float32 if it names none. Raises CheckpointError for an unknown one."""
    saved = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    if saved not in _DTYPES:
        raise CheckpointError(f"The config.json of {label} names the dtype {brief(saved)}, which is none.")
    return saved


def stock_config(folder: Path, fields: Mapping[str, Any], label: str) -> PreTrainedConfig:
    """The config of the stock transformers class of a checkpoint's network.

    fields: its config.json. Raises CheckpointError if there is no such class or the fields do not fit it.
    """
    family = FAMILIES.get(str(fields.get("model_type")))
    try:
        if family is None:
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return AutoConfig.for_model(family.stock_type, **family.stock_config(fields))
    except Exception as error:  # transformers may raise any exception here
        raise CheckpointError(why_not(str(fields.get("model_type")), label, error)) from error


def _generation_config(
    folder: Path, fields: Mapping[str, Any], config: PreTrainedConfig, label: str
) -> GenerationConfig:
    """The network's `generation_config`; only its EOS is used."""
    name = "generation_config.json"
    try:
        if (folder / name).is_file():
            read_json(folder, name)  # transformers ignores a damaged file, and would lose its EOS
        with quiet_transformers():
            try:
                return GenerationConfig.from_pretrained(folder, local_files_only=True)
            except OSError:  # no such file: transformers then uses the model's config
                return GenerationConfig.from_model_config(config)
    except CheckpointError:
        raise
    except Exception as error:  # transformers may raise any exception here
        raise CheckpointError(why_not(str(fields.get("model_type")), label, error)) from error


def _tokenizer(folder: Path, label: str, family: Family | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer; None, with a warning, if the checkpoint has none that loads without remote code."""
    try:
        if family is not None and (folder / "tokenizer.json").is_file():
            # Their tokenizer_config.json names classes of their remote code; tokenizer.json needs no such class.
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        if family is None:
            raise CheckpointError(
                f"The tokenizer of {label} cannot be loaded: {brief_text(str(error) or type(error).__name__, 200)}"
            ) from error
    logger.warning("%s has no tokenizer.json to load: prompts must be token ids", label)
    return None


def why_not(model_type: str, label: str, error: Exception) -> str:
    """One sentence that says why transformers cannot make a config or a network of a checkpoint."""
    for name, reason in NOT_NATIVE.items():
        if model_type.lower().startswith(name):
            return f"{label} cannot be decoded here: {reason}."
    text = str(error).strip() or type(error).__name__
    if "trust_remote_code" in text or "does not recognize this architecture" in text:
        return (
            f"{label} is of type {model_type!r}, which is no stock transformers class; "
            "it would need code of its own, which is never run here."
        )
    return f"{label} cannot be loaded: {brief_text(text, 200)}"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the output of transformers during a load; this engine reports a failure by the error that it raises."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
