"""The fields of a recipe before they are checked: read from YAML, then changed by `--set` and other given settings."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from nbdiff_engine.errors import brief, brief_text
from training.data.data_settings import DataSettings
from training.errors import RecipeError
from training.failure_kind import FailureKind

logger = logging.getLogger(__name__)

RECIPE_FOLDER = Path(__file__).parent / "bundled"

_DEEPEST = 40
_OPENING = (
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
# Settings that describe one source of data, and say nothing about another.
_OF_SOURCE = ("self_data", "weights", "format", "columns", "subset", "split", "limit")


def bundled_recipes() -> dict[str, Path]:
    """Name and file of every bundled recipe."""
    return {path.stem: path for path in sorted(RECIPE_FOLDER.glob("*.yaml"))}


def fields_of_file(name: str) -> dict[str, Any]:
    """The fields of a bundled name or a YAML file. Raises RecipeError."""
    known = bundled_recipes()
    path = known.get(name, Path(name).expanduser())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"There is no recipe {brief(name)}: not a bundled name ({', '.join(known)}) and not a readable file.",
            FailureKind.MISSING_FILE,
        ) from error
    return fields_of_text(text, name)


def fields_of_text(text: str, name: str, else_known: str = "") -> dict[str, Any]:
    """The fields of a recipe as YAML text. name, else_known: for the sentence of a RecipeError, which it raises."""
    try:
        fields = plain_yaml(text)
    except ValueError as error:
        raise RecipeError(f"The recipe {brief_text(name)} is not YAML: {error}{else_known}.") from error
    if not isinstance(fields, dict):
        raise RecipeError(f"The recipe {brief_text(name)} contains no settings{else_known}.")
    return fields


def plain_yaml(text: str) -> Any:
    """The value of a YAML text. Safe for untrusted text. Raises ValueError with the reason, as half a sentence.

    It refuses aliases, because a few lines of them can expand to gigabytes, and deep nesting, which YAML parses slowly.
    """
    depth = 0
    try:
        for token in yaml.scan(text):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if isinstance(token, yaml.AliasToken):
                raise ValueError("it uses an alias; write the value out")
            if depth > _DEEPEST:
                raise ValueError(f"it is nested more than {_DEEPEST} levels deep")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(brief_text(str(error), 160)) from error


def setting_of(text: str) -> tuple[str, Any]:
    """Dotted key and value of a --set. Raises RecipeError."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"--set {brief(text)} is not key=value, such as optimisation.learning_rate=1e-4.")
    try:
        parsed = plain_yaml(value) if value else None
    except ValueError as error:
        raise RecipeError(f"--set {brief(text)}: the value is not YAML.") from error
    return key.strip(), parsed


def change(fields: dict[str, Any], name: str, settings: Sequence[tuple[str, Any]]) -> None:
    """Put settings (dotted key, value) into the fields of the recipe `name`, in place. Raises RecipeError."""
    source = next((value for key, value in reversed(settings) if key == "data.source"), None)
    if source is not None:
        _leave_source(fields, source, name)
    _replace_length(fields, [key for key, _ in settings])
    for key, value in settings:
        _put(fields, key.split("."), value, key)


def _leave_source(fields: dict[str, Any], source: Any, name: str) -> None:
    """Remove the settings that belong to the recipe's own source, if another one is given."""
    data = fields.get("data")
    if not isinstance(data, dict) or data.get("source") == source:
        return
    before = {key: data.pop(key) for key in _OF_SOURCE if key in data}
    usual = DataSettings(source=None).model_dump()
    dropped = [key for key, value in before.items() if value and value != usual[key]]
    if dropped:
        logger.info(
            "the data is %s, so these settings of %s for its own data are left out: %s",
            brief(source),
            brief_text(name),
            ", ".join(f"data.{key}" for key in dropped),
        )


def _replace_length(fields: dict[str, Any], keys: list[str]) -> None:
    """Remove the length of the run from a recipe's fields if one of the given settings sets it in the other way."""
    lengths = {"optimisation.max_steps": "epochs", "optimisation.epochs": "max_steps"}
    for key in keys:
        other = lengths.get(key.strip())
        if other is not None and isinstance(fields.get("optimisation"), dict):
            fields["optimisation"].pop(other, None)


def _put(fields: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    *sections, last = path
    for section in sections:
        inner = fields.get(section)
        if inner is None:
            inner = fields[section] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"The setting {brief(key)} does not exist: {section!r} has no settings inside.")
        fields = inner
    fields[last] = value
