"""Every setting of a recipe as a field of the form, read off the recipe's own model, and back.

A field knows its dotted name, its words and what a visitor may put there. What is wrong with a value is said by the
recipe itself, in its one sentence; only what cannot even be read is refused here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from nbdiff_engine.errors import brief, brief_text
from training.errors import RecipeError
from training.recipe.recipe import Recipe

Kind = Literal["switch", "choice", "whole", "number", "text", "yaml"]

_YES_OR_NO = {True: "yes", False: "no"}  # of a switch that may be left open
# Said elsewhere in the form, or by the recipe's name.
_APART = ("about", "kind", "base", "data.source", "optimisation.max_steps", "quantization", "network.config")
# In the order in which they are shown.
_GROUPS = {
    "blocks": "Block growth",
    "optimisation": "Optimisation",
    "data": "Data",
    "objective": "Objective",
    "lora": "LoRA",
    "saving": "Saving",
    "": "Numbers and seed",
    "network": "New network",
}
# Where the name alone does not say what is counted, or is a letter of a formula.
_LABELS = {
    "blocks.kind": "How blocks grow",
    "blocks.b_0": "First block size (tokens)",
    "blocks.b_max": "Last block size (tokens)",
    "blocks.ratio": "Growth factor (times)",
    "blocks.start": "Growth begins (share of the run)",
    "blocks.interval": "Each size lasts (share of the run)",
    "blocks.sizes": "Sizes (list)",
    "blocks.starts": "Starts (list)",
    "objective.ar_weight": "Weight of the AR loss (λ)",
    "objective.ar_weight_end": "λ at the end",
    "objective.context": "Clean context",
    "objective.mask_annealing": "Mask annealing (share of the run)",
    "optimisation.packed_length": "Packed length (tokens)",
    "optimisation.rows": "Rows of a forward",
    "optimisation.accumulation": "Forwards of a step",
    "optimisation.warmup": "Warm-up (share of the run)",
    "optimisation.decay": "Decay (share of the run)",
    "optimisation.decay_to": "Decay to (share of the peak)",
    "optimisation.clip": "Clip the gradient at (norm)",
    "optimisation.beta_1": "Beta 1",
    "optimisation.beta_2": "Beta 2",
    "data.held_out": "Held out (documents)",
    "data.limit": "Read at most (documents)",
    "data.self_data.prompts": "Prompts for the base",
    "data.self_data.documents": "Written by the base (documents)",
    "data.self_data.max_new_tokens": "Answers of the base (tokens)",
    "data.self_data.temperature": "Temperature of the base",
    "network.tokenizer.vocab_size": "Vocabulary (tokens)",
    "network.tokenizer.documents": "Tokenizer reads (documents)",
    "saving.save_every": "Checkpoint every (steps)",
    "saving.eval_every": "Evaluate every (steps)",
    "saving.log_every": "Log every (steps)",
    "saving.keep": "Checkpoints kept",
    "saving.probes": "Probe each checkpoint",
    "save_dtype": "Final weights",
    "data.raw": "Without the chat template",
    "data.control_tokens": "Names of control tokens are tokens",
    "data.format": "Format of a row",
    "data.seed": "Seed of the data",
    "lora.targets": "Layers",
    "threads": "CPU threads",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A setting. empty: whether it may be left empty; default: what a section that is not there would have."""

    name: str
    label: str
    info: str
    kind: Kind
    group: str
    default: Any
    empty: bool
    choices: tuple[str, ...] = ()

    def shown(self, value: Any) -> Any:
        """A recipe's value as the form shows it."""
        if self.kind == "yaml" or isinstance(value, list):
            return _to_yaml(value)
        if self.kind == "choice":
            return "" if value is None else _YES_OR_NO.get(value, value)
        if self.kind == "number" and isinstance(value, int | float):
            return f"{value:g}"
        return value

    def read(self, given: Any) -> Any:
        """What the form holds as a recipe's value. Raises RecipeError for what is no value at all."""
        if isinstance(given, str):
            given = given.strip()
        if given is None or given == "":
            return self.default if self.kind == "yaml" else None if self.empty or self.kind != "text" else ""
        if self.kind in ("yaml", "number") or str(given).startswith("["):
            try:
                value = yaml.safe_load(str(given))
            except yaml.YAMLError as error:
                raise RecipeError(
                    f"{self.name} is {brief(given)}, which cannot be read as a list or a value."
                ) from error
            return _number(value) if self.kind == "number" else value
        if self.choices == tuple(_YES_OR_NO.values()):
            return given == _YES_OR_NO[True]
        if self.kind == "whole" and isinstance(given, float) and given.is_integer():
            return int(given)
        return given


def fields() -> list[Field]:
    """Every field of the form, in the recipe's own order."""
    return list(_walk(Recipe, ""))


def groups(found: list[Field]) -> dict[str, list[Field]]:
    """Fields by the title they stand under."""
    by_title: dict[str, list[Field]] = {title: [] for title in _GROUPS.values()}
    for field in found:
        by_title.setdefault(field.group, []).append(field)
    return by_title


def flat(recipe: Recipe) -> dict[str, Any]:
    """A recipe's values by dotted name; a section that is not there has its defaults."""
    dumped = recipe.model_dump(mode="json")
    return {field.name: _get(dumped, field) for field in fields()}


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings as the command line's --set takes them."""
    return [f"{name}={_to_yaml(value) or 'null'}" for name, value in settings.items()]


def _walk(model: type[BaseModel], prefix: str) -> Any:
    for key, info in model.model_fields.items():
        name = prefix + key
        if name in _APART:
            continue
        section = _section(info.annotation)
        if section is not None:
            yield from _walk(section, f"{name}.")
            continue
        kind, choices, empty = _kind(info.annotation)
        default = info.get_default(call_default_factory=True)
        yield Field(
            name=name,
            label=_LABELS.get(name, key.replace("_", " ").capitalize()),
            info=info.description or "",
            kind=kind,
            group=_GROUPS.get(name.split(".")[0] if "." in name else "", "Numbers and seed"),
            default=list(default) if isinstance(default, tuple) else default,
            empty=empty,
            choices=choices,
        )


def _section(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """What a visitor may put there, of what, and whether it may be left empty."""
    empty, inner = False, annotation
    if get_origin(annotation) in (Union, UnionType):
        parts = [each for each in get_args(annotation) if each is not type(None)]
        empty = len(parts) < len(get_args(annotation))
        inner = parts[0] if len(parts) == 1 else str
    if get_origin(inner) is Literal:
        return "choice", tuple(map(str, get_args(inner))), empty
    plain: dict[Any, Kind] = {bool: "switch", int: "whole", float: "number", str: "text"}
    if inner is bool and empty:
        return "choice", tuple(_YES_OR_NO.values()), empty
    while hasattr(inner, "__metadata__"):
        inner = get_args(inner)[0]
    return plain.get(inner, "yaml"), (), empty


def _get(dumped: Mapping[str, Any], field: Field) -> Any:
    value: Any = dumped
    for part in field.name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return field.default
        value = value[part]
    return value


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-5 for a word."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return brief_text(value)
    return value


def _to_yaml(value: Any) -> str:
    if value is None:
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
