"""The errors for invalid input. Each has one sentence that says what to change.

Every error of the engine is an `NBDiffError`: the command line prints it and exits with code 2, the page
shows it, and Python code can catch it. It is also a `ValueError`, because a value is invalid.
"""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError

_BRIEF = 60  # limit of a value in a message, in characters
# pydantic's types of range errors: the words for the bound in a sentence, and the bound's key in pydantic's context.
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}
# pydantic's types of errors about the kind of a value: what it must be.
_KINDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "names with values"),
    "string_type": "text",
}


class NBDiffError(ValueError):
    """Base class of the engine's errors; a message names the value, its limit and what to do.

    An error about one field also has its parts, so that a page can write the sentence with labels of its own.
    field: its name, after the names and indices of what it is in, as ("lanes", 1, "threshold"); () for other errors.
    value, rule: as in `of`.
    """

    field: tuple[str | int, ...] = ()
    value: str = ""
    rule: str = ""

    @classmethod
    def of(cls, field: str | tuple[str | int, ...], value: str, rule: str) -> Self:
        """An error about one field: "threshold is 2; it must be at most 1." value: "2"; rule: "it must be at most 1".

        value: brief text; "" if the rule says all that is to be said of the field: "stop_token_ids has -1; ..."
        """
        path = (field,) if isinstance(field, str) else field
        name = ".".join(map(str, path))
        error = cls(f"{name} is {value}; {rule}." if value else f"{name} {rule}.")
        error.field, error.value, error.rule = path, value, rule
        return error


class CheckpointError(NBDiffError):
    """A checkpoint cannot be found, or this engine cannot decode it."""


class SettingError(NBDiffError):
    """A decoding setting is out of its range, or does not fit the checkpoint."""


class PromptError(NBDiffError):
    """A prompt is empty, too long, or has token ids that are not allowed."""


class TraceError(NBDiffError):
    """A trace file is damaged, or has a version that this engine does not read."""


class ServerError(NBDiffError):
    """A server that was asked to decode cannot be reached, refuses the caller, or has ended."""


def first_problem(error: ValidationError) -> str:
    """The first problem of a pydantic validation as the rest of a sentence, without its period."""
    return str(setting_error(error)).removesuffix(".")


def setting_error(error: ValidationError, ranges: Mapping[str, str] | None = None) -> SettingError:
    """The first problem of a pydantic validation, as one sentence and as data.

    ranges: the range of a field in words, by its name. For a field without an entry the sentence names the bound that
    the value violates.
    """
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "value_error":  # raised by one of our validators: already a sentence
        raised = problem["ctx"]["error"]
        return raised if isinstance(raised, SettingError) else SettingError(f"{str(raised).removesuffix('.')}.")
    path = problem["loc"]
    field = ".".join(map(str, path))
    if problem["type"] == "extra_forbidden":
        return SettingError(f"{field!r} is not known here.")
    if problem["type"] == "missing":
        return SettingError(f"{field!r} is missing.")
    if problem["type"] == "literal_error":
        names = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return SettingError.of(path, brief(problem["input"]), f"choose one of {names}")
    if problem["type"] in _BOUNDS or problem["type"] == "finite_number":
        must_be = (ranges or {}).get(field) or _missed_bound(problem)
        return SettingError.of(path, _number(problem["input"]), f"it must be {must_be}")
    if problem["type"] in _KINDS:
        return SettingError.of(path, brief(problem["input"]), f"it must be {_KINDS[problem['type']]}")
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return SettingError.of(path, brief(problem["input"]), brief_text(message, 200).removesuffix("."))


def _missed_bound(problem: Any) -> str:
    if problem["type"] == "finite_number":
        return "a finite number"
    words, key = _BOUNDS[problem["type"]]
    return f"{words} {_number(problem['ctx'][key])}"


def _number(value: Any) -> str:
    """A number for a sentence; also accepts a number given as text."""
    if isinstance(value, int):
        return brief(value)
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError, OverflowError):
        return brief(value)


def brief(value: Any) -> str:
    """A value for a message: its repr on one line, cut to a short length."""
    try:
        text = repr(value)
    except ValueError:  # Python does not convert integers of thousands of digits to text
        text = "a number of thousands of digits"
    return brief_text(text)


def brief_text(text: str, limit: int = _BRIEF) -> str:
    """The first line of a text, cut to `limit` characters."""
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= limit else line[: limit - 3] + "..."


def is_text(text: str) -> bool:
    """Whether a str can be encoded as UTF-8; a str with half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
