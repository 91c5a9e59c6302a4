"""The spec of a job: a recipe and changes to it, validated before anything is stored."""

import json
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine.errors import NBDiffError, brief_text, first_problem
from training.errors import RecipeError
from training.jobs.job_errors import JobError
from training.recipe.absolute_paths import with_absolute_paths
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes, plain_yaml

_LONGEST_RECIPE = 64 * 1024  # characters; the longest of ours has 2,000
_LONGEST_SETTINGS = 64 * 1024
_LONGEST_TEXT = 4096


class JobSpec(BaseModel):
    """The spec of a job. Create one with `of`, which reports an error in one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(description="a bundled recipe's name, or a complete recipe as YAML text; never a path")
    settings: dict[str, Any] = Field(default_factory=dict, description='dotted keys, as "optimisation.max_steps"')
    base: str | None = Field(default=None, description="AR checkpoint: bundled name, folder or hub id")
    data: str | None = Field(default=None, description="file, folder, hub id, 'corpus' or 'self'")
    max_steps: int | None = Field(default=None, ge=1, description="optimiser steps; all phases scale with it")
    kind: Literal["adapt", "pretrain"] = "adapt"

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Validate a spec and the recipe it results in. Raises JobError, one sentence."""
        try:
            spec = cls.model_validate(fields)
        except (ValidationError, RecursionError) as error:
            why = first_problem(error) if isinstance(error, ValidationError) else "it is nested too deeply"
            raise JobError(f"The job is not valid: {why}.") from error
        spec.resolved()
        return spec

    def resolved(self) -> Recipe:
        """The recipe with all changes of this spec. Raises JobError."""
        self._check_sizes()
        try:
            recipe = Recipe.parse(
                self.recipe,
                self.settings,
                base=self.base,
                data__source=self.data,
                optimisation__max_steps=self.max_steps,
            )
        except JobError:
            raise
        except NBDiffError as error:
            raise JobError(str(error)) from error
        except (RecursionError, AttributeError, TypeError, ValueError) as error:
            raise JobError("The job's settings cannot be read; a setting is 'section.key': value.") from error
        if recipe.kind != self.kind:
            raise JobError(f"The recipe {self.label} is for {recipe.kind}, but the job is for {self.kind}.")
        try:
            recipe.require_inputs()
        except RecipeError as error:
            raise JobError(error.message, give=error.give) from error
        if recipe.kind == "pretrain" and self.base is not None:
            raise JobError("pretrain creates a new network, so it takes no base; leave it out.")
        return recipe

    def with_absolute_paths(self, threads: int | None) -> Recipe:
        """The recipe for the job's folder, with absolute paths. threads: used if the recipe sets none."""
        recipe = with_absolute_paths(self.resolved())
        return recipe.model_copy(update={"threads": recipe.threads or threads})

    @property
    def label(self) -> str:
        """A short name of the recipe."""
        return self.recipe if self.recipe in bundled_recipes() else "custom"

    def command(self) -> list[str]:
        """Arguments of `python -m training` for the same run, without --output. A custom recipe: recipe.yaml."""
        recipe = self.recipe if self.recipe in bundled_recipes() else "recipe.yaml"
        found = [self.kind, "--recipe", recipe]
        for option, value in (("--base", self.base), ("--data", self.data), ("--max-steps", self.max_steps)):
            if value is not None:
                found += [option, str(value)]
        for key, value in self.settings.items():
            found += ["--set", f"{key}={_set_value(value)}"]
        return found

    def _check_sizes(self) -> None:
        if len(self.recipe) > _LONGEST_RECIPE:
            raise JobError(f"The recipe has {len(self.recipe):,} characters; at most {_LONGEST_RECIPE:,} are read.")
        for name, text in (("base", self.base), ("data", self.data)):
            if text is None:
                continue
            if len(text) > _LONGEST_TEXT:
                raise JobError(f"The {name} has {len(text):,} characters; at most {_LONGEST_TEXT:,} are read.")
            if not text.strip() or not text.isprintable():
                raise JobError(f"The {name} is empty or contains unprintable characters; give it as one line.")
        if any(not key.isprintable() or not key.strip(". ") or len(key) > 200 for key in self.settings):
            raise JobError("A setting's name is empty, longer than 200 characters, or contains unprintable characters.")
        try:
            size = len(json.dumps(self.settings))
        except (TypeError, ValueError, RecursionError) as error:
            raise JobError("A setting's value is not a number, a text, or a list or mapping of them.") from error
        if size > _LONGEST_SETTINGS:
            raise JobError(f"The settings have {size:,} characters; at most {_LONGEST_SETTINGS:,} are read.")


def settings_of(overrides: list[str]) -> dict[str, Any]:
    """Parse `section.key=value` texts of a command line; values are YAML. Raises JobError."""
    found: dict[str, Any] = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise JobError(f"--set {brief_text(text)!r} is not key=value, such as optimisation.learning_rate=1e-4.")
        try:
            found[key.strip()] = plain_yaml(value) if value else None
        except ValueError as error:
            raise JobError(f"--set {brief_text(text)!r}: the value is not YAML: {error}.") from error
    return found


def _set_value(value: Any) -> str:
    """A value in the form that `--set` accepts."""
    if isinstance(value, str) and value.strip() and yaml.safe_load(yaml.safe_dump(value)) == value:
        plain = yaml.safe_dump(value, width=float("inf")).strip().removesuffix("...").strip()
        return plain if "\n" not in plain else json.dumps(value)
    return json.dumps(value)
