"""Conversations: messages with role and content, with tool calls, reasoning and tools, read from several notations."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.decoding.chat import read_turns
from nbdiff_engine.errors import PromptError, brief
from training.errors import DataError

Message = Mapping[str, Any]  # {"role": ..., "content": ...}, and perhaps tool_calls, reasoning_content, ...

# The values of ShareGPT's "from", which some data has as roles, and the usual roles.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
_ROLES |= {role: role for role in ("user", "assistant", "system", "tool")}
_ROLES |= {"function_call": "assistant", "observation": "tool", "function_response": "tool"}
_REASONING = ("reasoning_content", "thinking", "reasoning")  # names for the thought before an answer


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, the tools that the system offers, and the first message that may be an answer to train on."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    first: int = 1  # a greeting at the start is not an answer

    @property
    def answers(self) -> list[int]:
        """The indices of the messages to train on; a message with the weight 0 is context, as in OpenAI's format."""
        later = enumerate(self.messages[self.first :], start=self.first)
        return [at for at, each in later if each["role"] == "assistant" and each.get("weight") != 0]

    def up_to(self, end: int) -> "Conversation":
        """The conversation without the messages from index `end`."""
        return Conversation(self.messages[:end], self.tools, self.first)

    def required(self) -> "Conversation":
        """The conversation through its last answer. Raises DataError if there is none."""
        if not self.answers:
            raise DataError("The conversation has no answer of the assistant, so there is nothing to train on.")
        return self.up_to(self.answers[-1] + 1)

    def is_complete(self) -> bool:
        """Whether no message through the last answer is blank; those of the system may be."""
        return all(
            each["content"].strip() or each.get("tool_calls") or each["role"] == "system"
            for each in self.required().messages
        )

    def beside_text(self) -> set[str]:
        """The names of what it holds beside roles and contents, as a chat template reads them."""
        names = {"tools"} if self.tools else set()
        return names | {key for each in self.messages for key in ("tool_calls", *_REASONING) if each.get(key)}


def read_messages(value: Any) -> list[dict[str, Any]]:
    """Messages of role and content. value: the same, or ShareGPT's from and value; or the JSON text of either.

    A content of text parts becomes one string. Raises DataError for another form, or a content that is not text.
    """
    value = _without_json(value)
    if not isinstance(value, (list, tuple)):
        raise DataError(f"The conversation is {brief(value)}; it must be a list of messages, or its JSON text.")
    return [_message(each) for each in value]


def _message(given: Any) -> dict[str, Any]:
    known = without_none(given) if isinstance(given, Mapping) else {}
    if isinstance(known.get("role"), str):
        known["role"] = _ROLES.get(known["role"].lower(), known["role"])
    if "role" not in known and isinstance(known.get("from"), str):
        sender = known.pop("from")
        known = {**known, "role": _ROLES.get(sender.lower()), "content": known.pop("value", None)}
        if sender == "function_call" and (calls := _function_calls(known["content"])):
            known = {**known, "content": "", "tool_calls": calls}
    try:
        (message,) = read_turns([known])
    except PromptError as error:
        if isinstance(known.get("content"), list):
            raise DataError(str(error)) from error
        raise DataError(
            f"The message {brief(given)} is not {{'role': ..., 'content': ...}} with two strings."
        ) from error
    return message


def _function_calls(text: Any) -> list[dict[str, Any]] | None:
    """The tool calls of ShareGPT's function_call, whose value is JSON; None if it is not."""
    try:
        calls = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return None
    return [{"type": "function", "function": call} for call in calls]


def read_tools(value: Any) -> list[Any] | None:
    """The tools of a row: a list of JSON schemas, or its JSON text. Raises DataError for anything else."""
    value = _without_json(value)
    if not value:
        return None
    if not isinstance(value, (list, tuple)):
        raise DataError(f"Its tools are {brief(value)}; give a list, or its JSON text.")
    return [without_none(each) for each in value]


def _without_json(value: Any) -> Any:
    """What a JSON text holds, as in a column of a CSV file; None for blank text, and any other value as it is."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # the caller reports it
        return value


def with_system(messages: Sequence[dict[str, Any]], system: Any) -> list[dict[str, Any]]:
    """The messages after a system message, unless it is blank or they begin with one."""
    if not isinstance(system, str) or not system.strip() or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


def earlier_turns(history: Any) -> list[dict[str, Any]]:
    """Alpaca's history, a list of [prompt, answer] or its JSON text, as messages. Raises DataError for another form."""
    messages, turns = [], _without_json(history)
    if turns and not isinstance(turns, (list, tuple)):
        raise DataError(f"Its history is {brief(turns)}; it must be a list of [prompt, answer], or its JSON text.")
    for turn in turns or ():
        if not isinstance(turn, (list, tuple)) or len(turn) != 2 or not all(isinstance(each, str) for each in turn):
            raise DataError(f"Its history contains {brief(turn)}, which is not [prompt, answer].")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return messages


def without_none(value: Any) -> Any:
    """The value without keys of None: Arrow gives every row the keys of all other rows."""
    if isinstance(value, Mapping):
        return {key: without_none(each) for key, each in value.items() if each is not None}
    if isinstance(value, (list, tuple)):
        return [without_none(each) for each in value]
    return value
