"""The values of the form: a preset and the settings that differ from it. They give a recipe and the spec of a job."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from nbdiff_engine.errors import brief
from playground.training_tab.fields import Field, as_overrides, fields, flat, whole
from training.errors import RecipeError
from training.jobs import JobSpec
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes

QUANTIZATIONS = {"As stored": None, "8 bit": "8bit", "4 bit": "4bit"}
LONGEST_NAME = 80


@cache
def form_fields() -> tuple[Field, ...]:
    """The fields of the form, in the order of their values."""
    return tuple(fields())


@cache
def preset_of(name: str) -> Recipe:
    """A bundled recipe. Raises RecipeError for any other name, because a visitor must not read files with it."""
    if name not in bundled_recipes():
        raise RecipeError(f"There is no recipe {brief(name)}; choose one of {', '.join(bundled_recipes())}.")
    return Recipe.read(name)


@dataclass(frozen=True, slots=True)
class Asked:
    """The values of a form. base, data: a name, path or hub id; None: those of the preset. settings: by dotted name."""

    preset: str
    base: str | None
    data: str | None
    max_steps: int | None
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        preset: Any,
        base: str | None,
        data: str | None,
        max_steps: Any,
        epochs: Any,
        lora: Any,
        quantization: Any,
        values: Sequence[Any],
    ) -> "Asked":
        """Read a form. values: in the order of `form_fields`. Raises RecipeError, one sentence."""
        recipe = preset_of(str(preset))
        settings = _changed(recipe, bool(lora), quantization, values)
        if recipe.kind == "pretrain":
            base = None
        steps, passes = _steps(max_steps), _epochs(epochs)
        if steps is not None and passes is not None:
            raise RecipeError(f"The form gives {steps:,} steps and {passes:g} epochs; leave one of them empty.")
        if passes is not None and passes != recipe.optimisation.epochs:
            settings["optimisation.epochs"] = passes
        return cls(str(preset), base, data, steps, settings)

    def recipe(self) -> Recipe:
        """The complete recipe. Raises RecipeError for the first wrong setting."""
        return Recipe.read(
            self.preset,
            as_overrides(self.settings),
            base=self.base,
            data__source=self.data,
            optimisation__max_steps=self.max_steps,
        )

    def spec(self) -> JobSpec:
        """The spec of a job with these values."""
        return JobSpec.of(
            recipe=self.preset,
            settings=dict(self.settings),
            base=self.base,
            data=self.data,
            max_steps=self.max_steps,
            kind=preset_of(self.preset).kind,
        )


def shown_values(recipe: Recipe) -> list[Any]:
    """The values of a recipe as the form shows them, in the order of `form_fields`."""
    values = flat(recipe)
    return [field.shown(values[field.name]) for field in form_fields()]


def preset_for(recipe: Recipe, name: str) -> str:
    """The preset for a duplicate of a run: the recipe it was started with, or a bundled one of the same kind."""
    known = bundled_recipes()
    if name in known:
        return name
    return next(each for each in known if preset_of(each).kind == recipe.kind)


def _changed(recipe: Recipe, lora: bool, quantization: Any, values: Sequence[Any]) -> dict[str, Any]:
    before = flat(recipe)
    changed: dict[str, Any] = {}
    for field, given in zip(form_fields(), values, strict=True):
        section = field.name.split(".")[0]
        if (section in ("lora", "draft") and not lora) or (section == "network" and recipe.kind != "pretrain"):
            continue
        value = field.read(given)
        # If the preset has no LoRA section, at least one LoRA setting must be given to create it.
        new = field.name == "lora.rank" and recipe.lora is None
        if new or not _same(value, before[field.name]):
            changed[field.name] = value
    if recipe.lora is not None and not lora:
        changed["lora"] = None
        if recipe.drafts:
            changed["draft"] = {}
    wanted = QUANTIZATIONS.get(quantization, quantization) if isinstance(quantization, str) else quantization
    if wanted != recipe.quantization:
        changed["quantization"] = wanted
    return changed


def _same(value: Any, before: Any) -> bool:
    if isinstance(value, float) and isinstance(before, float):
        return abs(value - before) <= 1e-6 * abs(before)  # the form shows six significant digits
    return value == before and isinstance(value, bool) == isinstance(before, bool)


def _steps(given: Any) -> int | None:
    given = whole(given)
    if given is None or given == "":
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise RecipeError(f"The number of steps is {brief(given)}; give a whole number of at least 1.")
    return given


def _epochs(given: Any) -> float | None:
    if given is None or given == "":
        return None
    if isinstance(given, str):
        with suppress(ValueError):
            given = float(given)
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 < given <= 10_000:
        raise RecipeError(f"The number of epochs is {brief(given)}; give a number above 0, at most 10,000.")
    return float(given)


def checked_name(name: Any, preset: str) -> str:
    """The name of a job; the name of the preset if it is empty. Raises RecipeError if it is not one short line."""
    text = name.strip() if isinstance(name, str) else ""
    if len(text) > LONGEST_NAME or not text.isprintable():
        raise RecipeError(f"The job's name is {brief(text)}; give one line of at most {LONGEST_NAME} characters.")
    return text or preset
