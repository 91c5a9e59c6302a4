"""A conversation as the text that the model reads: checked, and written by the chat template of the tokenizer."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from nbdiff_engine.errors import PromptError, brief, brief_text, is_text

# Arguments of `apply_chat_template` that this module decides.
_OWN = ("conversation", "messages", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict")


def read_turns(turns: Sequence[Any]) -> list[dict[str, Any]]:
    """The turns, with a content of text parts as one string: the texts, one to a line. Raises PromptError."""
    alone = len(turns) == 1
    return [_read_turn("The prompt" if alone else f"Message {number}", turn) for number, turn in enumerate(turns, 1)]


def _read_turn(name: str, turn: Any) -> dict[str, Any]:
    known = turn if isinstance(turn, Mapping) else {}
    content = known.get("content")
    if isinstance(content, (list, tuple)):
        content = "\n".join(_text_of_part(name, part) for part in content)
    elif content is None and known.get("tool_calls"):
        content = ""
    if not isinstance(known.get("role"), str) or not isinstance(content, str):
        raise PromptError(
            f"{name} is {brief(turn)}; a message is {{'role': ..., 'content': ...}}, both strings, and a content may "
            "also be a list of text parts."
        )
    require_text(content, name)
    return {**known, "content": content}


def _text_of_part(name: str, part: Any) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, Mapping) else part
        raise PromptError(f"{name} has a part of type {brief(kind)}; this engine reads parts of type 'text' only.")
    if not isinstance(part.get("text"), str):
        raise PromptError(f"{name} has a text part with the text {brief(part.get('text'))}; give a string.")
    return part["text"]


def render(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[dict[str, Any]],
    template_arguments: Mapping[str, Any] | None = None,
    mark: Callable[[str], str] = str,
) -> str:
    """The conversation up to where the model answers.

    A last turn of the assistant is continued: the text ends with it. If it is blank, the answer begins as usual.
    mark: applied to every string of the turns and arguments, see `ControlTokens.mark`.
    name: of the model, for messages. Raises PromptError, also for an argument that the template does not read.
    """
    if not tokenizer.chat_template:
        raise PromptError(f"{name} has no chat template; give the prompt as text.")
    turns, arguments = list(turns), dict(template_arguments or {})
    _check_arguments(name, tokenizer, arguments)
    last = turns[-1] if turns else {}
    continues = last.get("role") == "assistant" and bool(last["content"].strip())
    if last.get("role") == "assistant" and not continues and not last.get("tool_calls"):
        turns.pop()
    turns, arguments = each_text(turns, mark), each_text(arguments, mark)
    try:
        return tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=not continues, continue_final_message=continues, **arguments
        )
    except Exception as error:  # a template is a program of the checkpoint and may raise any exception
        raise PromptError(
            f"The chat template of {name} refuses this conversation: {brief_text(str(error), 200)}"
        ) from error


def _check_arguments(name: str, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
    for argument in arguments:
        if not isinstance(argument, str) or not argument.isidentifier():
            raise PromptError(f"The template argument {brief(argument)} is not a name.")
        if argument in _OWN:
            raise PromptError(f"The template argument {argument!r} is decided by the engine; leave it out.")
        template = tokenizer.get_chat_template(None, arguments.get("tools"))
        if argument != "chat_template" and not re.search(rf"\b{argument}\b", template):
            raise PromptError(f"The chat template of {name} does not read {argument!r}; leave it out.")


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every string in it changed, in lists and mappings too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: each_text(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [each_text(each, change) for each in value]
    return value


def require_text(text: str, name: str = "The prompt") -> None:
    """Raise PromptError for a str that is not valid Unicode text. name: what it is, for the message."""
    if not is_text(text):
        raise PromptError(f"{name} is not valid text: it contains half of a surrogate pair.")
