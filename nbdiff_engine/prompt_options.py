"""What the command line reads of a prompt: a text, standard input, or a conversation in a file; and how it prints."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbdiff_engine.errors import PromptError, brief


def read_prompt(prompt: str | None, messages: Path | None) -> str | list[Any]:
    """The prompt of a command line: a text ("-": standard input), or the conversation of a JSON file.

    The file holds a list of messages, or an object with an entry "messages". Raises PromptError.
    """
    if (prompt is None) == (messages is None):
        raise PromptError("Give either a prompt or --messages with a file.")
    if messages is not None:
        return _conversation(messages)
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise PromptError(
            f"Standard input is not text in {error.encoding}; set PYTHONIOENCODING to its encoding, such as utf-8."
        ) from error


def _conversation(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or JSON that is nested too deeply
        raise PromptError(f"The conversation {path} is not JSON in UTF-8.") from error
    except OSError as error:
        raise PromptError(f"The conversation {path} cannot be read: {error.strerror}.") from error
    turns = found.get("messages") if isinstance(found, dict) else found
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise PromptError(
            f"The conversation {path} holds no list of {{'role': ..., 'content': ...}}, alone or as 'messages'."
        )
    return turns


def template_arguments(options: Sequence[str] | None) -> dict[str, Any]:
    """The values of --template-argument name=json. Raises PromptError."""
    arguments: dict[str, Any] = {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise PromptError(f"--template-argument is {brief(option)}; give name=json, such as enable_thinking=false.")
        if name in arguments:
            raise PromptError(f"--template-argument gives {name!r} twice; give it once.")
        try:
            arguments[name] = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise PromptError(
                f"--template-argument gives {name!r} the value {brief(value)}, which is not JSON; a text needs double "
                "quotes, and yes and no are true and false."
            ) from error
    return arguments


def print_any_text() -> None:
    """Print characters that the terminal's encoding lacks as escapes: an answer may hold any character."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a program that replaces the streams may use others
            stream.reconfigure(errors="backslashreplace")
