"""What can go wrong at the edge, each as one sentence a person can act on.

Every error of the engine is an `NBDiffError`: the command line prints it and exits with code 2, the page
shows it, and Python code can catch it. It is also a `ValueError`, because that is what it is.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

_BRIEF = 60  # characters of a value that a message repeats
# pydantic's kinds of range errors: how a sentence begins what the value must be, and where pydantic keeps the bound.
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


class NBDiffError(ValueError):
    """Base of the errors that name a value, its limit and what to do."""


class CheckpointError(NBDiffError):
    """A checkpoint cannot be found, or is not one that this engine decodes."""


class SettingError(NBDiffError):
    """A decoding setting is out of its range, or does not fit the checkpoint."""


class PromptError(NBDiffError):
    """A prompt is empty, too long, or holds token ids it must not hold."""


class TraceError(NBDiffError):
    """A trace file is damaged, or of a version this engine does not read."""


def first_problem(error: ValidationError, ranges: Mapping[str, str] | None = None) -> str:
    """The first problem of a pydantic validation, as one sentence.

    ranges: what a field must be, in words, by its name; without an entry a value out of range is told the bound that
    it misses.
    """
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "value_error":  # raised by a validator of ours: already a sentence
        return str(problem["ctx"]["error"])
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{field!r} is not known here"
    if problem["type"] == "missing":
        return f"{field!r} is missing"
    if problem["type"] == "literal_error":
        names = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{field} is {brief(problem['input'])}; choose one of {names}"
    if problem["type"] in _BOUNDS or problem["type"] == "finite_number":
        must_be = (ranges or {}).get(field) or _missed_bound(problem)
        return f"{field} is {_number(problem['input'])}; it must be {must_be}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{field} is {brief(problem['input'])}: {brief_text(message, 200)}"


def _missed_bound(problem: Any) -> str:
    if problem["type"] == "finite_number":
        return "a finite number"
    words, key = _BOUNDS[problem["type"]]
    return f"{words} {_number(problem['ctx'][key])}"


def _number(value: Any) -> str:
    """A number as a sentence has it, also one that came as text."""
    if isinstance(value, int):
        return brief(value)
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError, OverflowError):
        return brief(value)


def brief(value: Any) -> str:
    """A value as a message repeats it: on one line, and never longer than a line."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to spell integers of thousands of digits
        text = "a number of thousands of digits"
    return brief_text(text)


def brief_text(text: str, limit: int = _BRIEF) -> str:
    """The first line of a text, cut to `limit` characters."""
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= limit else line[: limit - 3] + "..."


def is_text(text: str) -> bool:
    """Whether a str can be written down at all: one with half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
