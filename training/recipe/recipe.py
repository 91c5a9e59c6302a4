"""A recipe: all settings of a run. It is validated when it is read, and stored in the run's folder.

A recipe is YAML, in a bundled or a separate file. `--set section.key=value` overrides single settings.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from nbdiff_engine.errors import brief_text, setting_error
from training.data.data_settings import DataSettings
from training.errors import RecipeError
from training.recipe.block_schedule import BlockGrowth
from training.recipe.lora_settings import DraftSettings, Lora
from training.recipe.recipe_fields import bundled_recipes, change, fields_of_file, fields_of_text, setting_of
from training.recipe.section import Section


class Tokenizer(Section):
    """pretrain only: the byte-level BPE tokenizer, which is trained first."""

    vocab_size: int = Field(default=1536, ge=300, description="entries, including the 256 bytes and special tokens")
    documents: int = Field(default=20_000, ge=1, description="documents it is trained on")


class Network(Section):
    """pretrain only: the new AR network, as a stock transformers config."""

    model_type: str = Field(default="llama", description="a transformers model type with full attention")
    config: dict[str, Any] = Field(default_factory=dict, description="entries of its config.json")
    tokenizer: Tokenizer = Tokenizer()


class ObjectiveSettings(Section):
    """L = L_MDM + lambda * L_AR, and switches for the paper's ablations."""

    ar_weight: float = Field(default=0.5, ge=0, description="lambda at the start of the run")
    ar_weight_end: float | None = Field(
        default=None, ge=0, description="lambda at the end of the run, reached linearly; empty: constant"
    )
    context: Literal["token_causal", "block_causal"] = Field(
        default="token_causal",
        description="attention of clean tokens; token_causal: the paper's; block_causal: its ablation",
    )
    token_shift: bool = Field(default=True, description="the output at i-1 predicts token i, as in the AR checkpoint")
    complementary_masks: bool = Field(
        default=False, description="use each row twice, with complementary masks; doubles the cost of a step"
    )
    mask_token: str | None = Field(
        default=None, min_length=1, description="name of MASK in the tokenizer; empty: chosen by the run"
    )
    pad_vocabulary_to: int | None = Field(
        default=None, ge=1, le=4096, description="if MASK needs a new row: rows become a multiple of this"
    )
    at_least_one_mask: bool = Field(default=False, description="mask at least one token of every block")
    mask_annealing: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="fraction of the run in which a block's later tokens become visible; 0: visible from the start",
    )

    @model_validator(mode="after")
    def _can_be_decoded(self) -> Self:
        if not self.token_shift and self.context == "token_causal" and self.ar_weight > 0:
            raise ValueError(
                f"token_shift is off, but ar_weight is {self.ar_weight:g}: an AR loss predicts the next token, "
                "which is the shift; set ar_weight=0"
            )
        return self


class Optimisation(Section):
    """Steps, batches, learning rate."""

    max_steps: int = Field(default=4000, ge=1, le=10**9, description="optimiser steps of the whole run")
    epochs: float | None = Field(
        default=None, gt=0, le=10_000, description="passes over the documents, instead of max_steps"
    )
    packed_length: int = Field(default=8192, ge=8, description="tokens of a packed row; at most the base's context")
    rows: int = Field(default=1, ge=1, description="packed rows per forward and process")
    accumulation: int = Field(default=1, ge=1, description="forwards per optimiser step")
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: Muon for the matrices of the layers, AdamW for all other weights"
    )
    learning_rate: float = Field(default=1e-5, gt=0, lt=1, description="peak learning rate")
    warmup: float = Field(default=0.0, ge=0, lt=1, description="fraction of the run with a linearly rising rate")
    decay: float = Field(default=0.0, ge=0, le=1, description="last fraction of the run, with a falling rate")
    decay_to: float = Field(default=0.0, ge=0, le=1, description="final learning rate, as a share of the peak")
    decay_shape: Literal["linear", "cosine"] = Field(default="linear", description="shape of the decay")
    beta_1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's first decay rate")
    beta_2: float = Field(default=0.95, ge=0, lt=1, description="AdamW's second decay rate")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay of matrices")
    clip: float = Field(default=1.0, ge=0, description="maximum norm of the gradient; 0: no clipping")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute layers in the backward pass, to save memory"
    )

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.epochs is not None and "max_steps" in self.model_fields_set:
            raise ValueError(
                f"optimisation.max_steps is {self.max_steps} and optimisation.epochs is {self.epochs:g}; "
                "give one of them, because each sets the length of the run"
            )
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup is {self.warmup:g} and decay is {self.decay:g}; their sum must be at most 1")
        return self


class Saving(Section):
    """Checkpoints, evaluation, log."""

    save_every: int = Field(default=500, ge=1, description="steps between checkpoints")
    keep: int = Field(default=2, ge=1, description="number of newest checkpoints to keep")
    sharded: bool = Field(default=False, description="with shard: each process saves its part, to a folder all see")
    eval_every: int = Field(
        default=500, ge=0, description="steps between evaluations, the first before training; 0: only at the end"
    )
    best: Literal["keep", "final"] | None = Field(
        default=None,
        description="of the lowest held-out MDM loss, for a draft adapter of the longest accepted run; keep: keep its "
        "checkpoint, final: also make final/ from it",
    )
    patience: int | None = Field(
        default=None, ge=1, description="end the run after so many evaluations without a better one; empty: never"
    )
    log_every: int = Field(default=1, ge=1, description="steps between lines of metrics.jsonl")
    probes: bool | None = Field(
        default=None,
        description="decode the same few prompts at checkpoints and evaluations; empty: only for small models",
    )
    trackers: tuple[str, ...] = Field(
        default=(), description="trackers of accelerate: trackio, tensorboard, wandb, ..."
    )

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        for name, value in (("best", self.best), ("patience", self.patience)):
            if value is not None and not self.eval_every:
                raise ValueError(
                    f"saving.{name} is {value}, but saving.eval_every is 0, so the run is evaluated only at its end; "
                    "set saving.eval_every"
                )
        return self


class Recipe(Section):
    """All settings of a run."""

    about: str = Field(default="", description="the purpose of this recipe, in one sentence")
    kind: Literal["adapt", "pretrain"] = Field(
        default="adapt", description="adapt a checkpoint, or pretrain a new model"
    )
    base: str | None = Field(default=None, description="AR checkpoint: bundled name, folder or hub id")
    network: Network | None = None
    data: DataSettings
    blocks: BlockGrowth = BlockGrowth()
    objective: ObjectiveSettings = ObjectiveSettings()
    optimisation: Optimisation = Optimisation()
    lora: Lora | None = None
    draft: DraftSettings = DraftSettings()
    quantization: Literal["8bit", "4bit"] | None = Field(default=None, description="of the frozen base; needs lora")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="of the arithmetic; auto: bf16 if the device computes it fast; trained weights are kept in float32",
    )
    save_dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="of the final weights; auto: as the base"
    )
    attention: Literal["auto", "dense", "documents", "flex"] = Field(
        default="auto",
        description="documents (CPU) and flex (CUDA) skip masked parts, dense does not; auto: by the device",
    )
    shard: bool = Field(default=False, description="split weights, gradients and optimiser over processes (FSDP2)")
    compile: bool = Field(default=False, description="torch.compile the network; needs a C++ compiler on a CPU")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of each process; empty: torch's choice")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of weights, order, noise and sampling")
    saving: Saving = Saving()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kind == "pretrain" and self.network is None:
            raise ValueError("a recipe of kind 'pretrain' needs a network section; add one")
        if self.kind == "pretrain" and (self.lora or self.quantization):
            raise ValueError("pretrain trains every weight of a new network; leave lora and quantization out")
        if self.drafts:
            self._check_draft()
        elif self.draft != DraftSettings():
            raise ValueError("the draft section is for lora.mode draft_only; set that or leave the section out")
        if self.kind == "adapt" and self.network is not None:
            raise ValueError("an adaptation starts from a base checkpoint; leave the network section out")
        for name in ("best", "patience"):
            if getattr(self.saving, name) is not None and self.data.held_out == 0:
                raise ValueError(
                    f"saving.{name} needs held-out documents, but data.held_out is 0; set it to at least 1"
                )
        if self.quantization and self.lora is None:
            raise ValueError(
                f"quantization is {self.quantization}, but quantised weights are frozen; add a lora section"
            )
        return self

    @property
    def drafts(self) -> bool:
        """Whether a draft adapter is trained."""
        return self.lora is not None and self.lora.mode == "draft_only"

    def _check_draft(self) -> None:
        """Raise ValueError for settings that a draft adapter does not have."""
        sizes = [size for _, size in self.blocks.over(self.optimisation.max_steps).stages]
        if min(sizes) < 2:
            raise ValueError(
                f"lora.mode is draft_only, but a block of the schedule has {min(sizes)} token: a draft block has a "
                "clean row and at least one noise row; set blocks.b_0 to at least 2"
            )
        if self.draft.groups > self.blocks.b_max - 1:
            raise ValueError(
                f"draft.groups is {self.draft.groups}, but blocks of {self.blocks.b_max} have only "
                f"{self.blocks.b_max - 1} different borders; set it to at most {self.blocks.b_max - 1}"
            )
        if self.objective != ObjectiveSettings():
            raise ValueError("the objective section is for all weights and lora.mode all; leave it out for draft_only")
        for name, given in (("compile", self.compile), ("saving.probes", self.saving.probes)):
            if given:
                raise ValueError(f"{name} is set, which a draft adapter does not support; leave it out")

    @classmethod
    def read(cls, name: str, overrides: list[str] | None = None, **given: Any) -> Self:
        """Read a bundled name or a YAML file. `overrides` are `key=value` texts; `given`, unless None, overrides both.

        Raises RecipeError.
        """
        fields = fields_of_file(name)
        settings = [setting_of(text) for text in overrides or []]
        return cls._changed(fields, name, settings, given)

    @classmethod
    def parse(cls, source: str, settings: Mapping[str, Any] | None = None, **given: Any) -> Self:
        """Read a bundled name or a complete recipe as YAML text, never a path. settings: values by dotted key.

        Safe for untrusted text, see `recipe_fields.plain_yaml`. Raises RecipeError.
        """
        known = bundled_recipes()
        if source in known:
            name, fields = source, fields_of_file(source)
        else:
            name = "that was given as text" if "\n" in source else repr(brief_text(source))
            fields = fields_of_text(source, name, "; the bundled recipes are " + ", ".join(known))
        return cls._changed(fields, name, [(key.strip(), value) for key, value in (settings or {}).items()], given)

    @classmethod
    def _changed(
        cls, fields: dict[str, Any], name: str, settings: Sequence[tuple[str, Any]], given: Mapping[str, Any]
    ) -> Self:
        """The recipe with settings by dotted key, then those of `given` with __ for the dot, unless None."""
        settings = [*settings, *((key.replace("__", "."), value) for key, value in given.items() if value is not None)]
        change(fields, name, settings)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            problem = setting_error(error)
            refused = RecipeError(f"The recipe {brief_text(name)} is not valid: {problem}")
            refused.field, refused.value, refused.rule = problem.field, problem.value, problem.rule
            raise refused from error

    @property
    def missing(self) -> tuple[str, ...]:
        """The inputs that are still to be given, of "base" and "data"."""
        base = ("base",) if self.kind == "adapt" and self.base is None else ()
        return (*base, "data") if self.data.source is None else base

    def require_inputs(self, data: bool = True) -> None:
        """Raise RecipeError, one sentence, if the base or the data is still to be given. data: False for no data."""
        missing = [each for each in self.missing if data or each != "data"]
        if missing:
            names = ["base checkpoint" if each == "base" else each for each in missing]
            raise RecipeError(f"The recipe names no {' and no '.join(names)}", give=missing)

    def to_yaml(self) -> str:
        """All resolved settings, as YAML that `read` accepts."""
        fields = self.model_dump(mode="json")
        if self.optimisation.epochs is not None:
            del fields["optimisation"]["max_steps"]  # not known yet, and the two are not given together
        return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=110)
