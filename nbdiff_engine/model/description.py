"""The description of a checkpoint, from its small files only: config, spec, tokenizer, context, EOS. Reads no weights.

`load` uses it, and so does code that describes a checkpoint without its weights: the list of models, and the preview
and the estimate of a training run.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from nbdiff_engine.errors import CheckpointError, SettingError, brief
from nbdiff_engine.model.checkpoint_folders import (
    bundled_adapters,
    bundled_models,
    find_checkpoint,
    label_of,
    read_json,
)
from nbdiff_engine.model.draft_spec import DraftSpec, is_draft_adapter
from nbdiff_engine.model.families import FAMILIES, Family, why_not_decoded
from nbdiff_engine.model.hub_checkpoints import HubName
from nbdiff_engine.model.layer_kinds import context_length_of, full_attention_length_of
from nbdiff_engine.model.lora_folders import base_of_adapter, beside_adapter, spec_of_adapter
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from nbdiff_engine.model.spec import CONFIG_KEY, DiffusionSpec
from nbdiff_engine.model.tokenizer_files import end_of_turn, load_tokenizer, readable_files
from nbdiff_engine.model.transformers_calls import not_decoded, quiet_transformers, why_not
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG, is_adapter, weight_files

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
    generation: GenerationConfig
    eos_token_ids: frozenset[int]  # the tokens that end an answer; empty if the checkpoint names none
    saved_dtype: str  # of its weights, as config.json names it
    adapter: Path | None = None  # the folder of an adapter of these weights
    draft: DraftSpec | None = None  # of a draft adapter, which is active at noise rows only; None: it is merged
    base_label: str = ""  # of the weights, where `label` is an adapter's
    never_predicted: tuple[int, ...] = ()  # MASK of the weights' own spec

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
        for path in weight_files(self.folder):
            with safe_open(path, framework="pt") as weights:
                count += sum(math.prod(weights.get_slice(key).get_shape()) for key in weights.keys())  # noqa: SIM118
        return count


def describe(
    name: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
) -> CheckpointDescription:
    """Describe a checkpoint without reading its weights.

    name: as in `load`. A hub id that is not in the local cache is downloaded, including its weights.
    base: the checkpoint of an adapter; None is the one that the adapter names.
    adapter: an adapter of the checkpoint `name`; the same as the adapter as `name` and the checkpoint as `base`.

    Raises CheckpointError with one sentence if these files are missing or damaged, or the model type is unknown.
    """
    if adapter is not None:
        if base is not None:
            raise SettingError(
                "Both an adapter and a base are given; a base belongs to an adapter that is loaded alone."
            )
        name, base = adapter, name
    folder = find_checkpoint(name)
    label = label_of(name, folder)
    if is_adapter(folder) or (base is not None and (folder / ADAPTER_CONFIG).is_file()):
        return _describe_adapter(folder, label, base, is_local=Path(name).expanduser().exists())
    if base is not None:
        raise SettingError(
            f"A base is given ({brief(os.fspath(base))}), but {label} is no adapter: it has no {ADAPTER_CONFIG}."
            if adapter is None
            else f"{label} is not an adapter: it has no {ADAPTER_CONFIG}."
        )
    fields = read_json(folder)
    family = FAMILIES.get(str(fields.get("model_type")))
    config = stock_config(folder, fields, label)
    with readable_files(folder) as readable:
        tokenizer = load_tokenizer(readable, label, remote_classes=family is not None)
        generation = _generation_config(readable, fields, config, label)
    if family is not None:
        fields = {**fields, CONFIG_KEY: family.diffusion_fields(fields, getattr(tokenizer, "mask_token_id", None))}
    spec = DiffusionSpec.from_config(fields, label)
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
        generation=generation,
        eos_token_ids=eos_token_ids,
        saved_dtype=saved_dtype_of(fields, label),
        base_label=label,
        never_predicted=() if spec is None else (spec.mask_token_id,),
    )


def _describe_adapter(
    folder: Path, label: str, base: str | os.PathLike[str] | None, is_local: bool
) -> CheckpointDescription:
    """The base of an adapter, with the adapter's own tokenizer and spec if it has them.

    is_local: it is not from the hub. One from there may name a path, which is of another machine: never read here.
    """
    draft = DraftSpec.read(folder, label) if is_draft_adapter(folder) else None
    named = base
    if base is None:
        named = base_of_adapter(folder, label) if draft is None else beside_adapter(folder, draft.base.name)
    by_name = str(named) in bundled_models() or str(named) in PACKAGED_MODELS
    if base is None and not is_local and not by_name and (HubName.of(str(named)) is None or Path(named).exists()):
        raise CheckpointError(
            f"{label} is an adapter of the hub that names {brief(named)} as its base, which is no hub id here; "
            "give the location of the base as base (--base)."
        )
    try:
        described = describe(named)
    except CheckpointError as error:
        looked = ""
        if base is None and not Path(named).is_absolute():
            looked = f"As a path it is looked for in {folder} and in the working directory. "
        raise CheckpointError(
            f"{label} is an adapter, and its base cannot be loaded: {error} {looked}Give the location of the base as "
            "base (--base)."
        ) from error
    if described.adapter is not None:
        raise CheckpointError(
            f"{label} is an adapter whose base, {described.label}, is an adapter too; merge that one."
        )
    if draft is not None:
        return _describe_draft(described, folder, label, draft)
    if any(folder.glob("tokenizer*")):
        with readable_files(folder) as readable:
            own = load_tokenizer(readable, label)
        if own is not None:
            ends = eos_token_ids_of(described.generation, described.config, own, label)
            described = replace(described, tokenizer=own, eos_token_ids=ends)
    vocabulary = described.config.get_text_config().vocab_size
    spec = spec_of_adapter(folder, label, vocabulary, described.eos_token_ids)
    if spec is not None:
        described = replace(described, spec=spec, never_predicted=(spec.mask_token_id,))
    return replace(described, label=label, adapter=folder)


def _describe_draft(base: CheckpointDescription, folder: Path, label: str, draft: DraftSpec) -> CheckpointDescription:
    """A base with a draft adapter. Its tokenizer is the base's own, as all else that decides its answers."""
    if base.spec is not None and not base.spec.commits_as_ar:
        raise CheckpointError(
            f"The draft adapter {label} cannot be used with {base.label}, which commits its blocks with "
            f"token_shift={base.spec.token_shift} and context={base.spec.context!r}: that is no AR pass."
        )
    spec = draft.diffusion_spec(base.config.get_text_config().vocab_size)
    return replace(base, label=label, adapter=folder, draft=draft, spec=spec)


@dataclass(frozen=True, slots=True)
class NamedModel:
    """One line of `nbdiff models`. origin: where it is on this machine; None: not here, and `how_to_install` says how
    it gets here."""

    name: str
    origin: str | None
    architecture: str
    parameters: int
    dtype: str
    block_size: int | None  # None: an AR checkpoint
    how_to_install: str | None = None
    drafts_for: str | None = None  # of a draft adapter: the name of its base

    @property
    def kind(self) -> str:
        if self.drafts_for:
            return f"drafts for {self.drafts_for}"
        return "AR only" if self.block_size is None else f"block size {self.block_size}"


def describe_named() -> list[NamedModel]:
    """One NamedModel for each bundled checkpoint, for each that a package brings, and for each bundled draft adapter.
    Converts and downloads none."""
    bundled = [
        NamedModel(
            name=name,
            origin=str(each.folder),
            architecture=(each.config.architectures or ["unknown"])[0],
            parameters=each.parameters,
            dtype=each.saved_dtype,
            block_size=None if each.spec is None else each.spec.block_size,
        )
        for name, each in ((name, describe(name)) for name in bundled_models())
    ]
    packaged = [
        NamedModel(name, each.origin, each.architecture, each.parameters, each.dtype, None, each.how_to_install)
        for name, each in PACKAGED_MODELS.items()
    ]
    known = {each.name: each for each in bundled + packaged}
    adapted = [
        replace(known[spec.base.name], name=name, block_size=spec.block_size, drafts_for=spec.base.name)
        for name, spec in ((name, DraftSpec.read(folder, name)) for name, folder in bundled_adapters().items())
    ]
    return [*known.values(), *adapted]


# -- single facts -------------------------------------------------------------------------------------------


def eos_token_ids_of(
    generation: GenerationConfig, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None, label: str
) -> frozenset[int]:
    """The tokens that end an answer: those of the first of generation config, config and tokenizer that names any, and
    the one that the chat template writes after an answer. Empty if there is none.

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
    end = None if tokenizer is None else end_of_turn(tokenizer)
    return frozenset(ids) if end is None else frozenset([*ids, end])


def saved_dtype_of(fields: Mapping[str, Any], label: str) -> str:
    """The dtype that config.json names; float32 if it names none. Raises CheckpointError for an unknown one."""
    saved = fields.get("dtype") or fields.get("torch_dtype") or "float32"
    if saved not in _DTYPES:
        raise CheckpointError(
            f"The config.json of {label} names the dtype {brief(saved)}, which does not "
            "exist; the checkpoint is damaged."
        )
    return saved


def stock_config(folder: Path, fields: Mapping[str, Any], label: str) -> PreTrainedConfig:
    """The config of the stock transformers class of a checkpoint's network.

    fields: its config.json. Raises CheckpointError if there is no such class, if the fields do not fit it, or if this
    engine does not decode its networks.
    """
    model_type = str(fields.get("model_type"))
    family = FAMILIES.get(model_type)
    try:
        if family is not None:
            return AutoConfig.for_model(family.stock_type, **family.stock_config(fields))
        with readable_files(folder) as readable:
            config = AutoConfig.from_pretrained(readable, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers may raise any exception here
        raise CheckpointError(why_not(model_type, label, error)) from error
    reason = why_not_decoded(config)
    if reason is not None:
        raise CheckpointError(not_decoded(model_type, label, reason))
    return config


def _generation_config(
    folder: Path, fields: Mapping[str, Any], config: PreTrainedConfig, label: str
) -> GenerationConfig:
    """The network's `generation_config`."""
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
