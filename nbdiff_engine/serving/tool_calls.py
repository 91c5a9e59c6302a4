"""Tool calls in the text of an answer, as OpenAI's API has them.

A call is JSON between two tags, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Hermes and Qwen write
it; a list of such objects, as SmolLM2 writes it, is several calls. Text that looks like a call and is none stays text.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from nbdiff_engine.errors import is_text

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call. arguments: JSON as text."""

    id: str
    name: str
    arguments: str

    def to_json(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


class ToolCallReader:
    """Splits an answer, piece by piece, into the text beside its calls and the calls. Text that may turn out to be a
    tag is delayed, and so are spaces, which are dropped before a call and at the end of an answer with calls."""

    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self._held = ""  # within a call: its text so far; else what may be the beginning of OPEN
        self._spaces = ""  # before it
        self._inside = False

    def add(self, piece: str) -> str:
        """Advance by one piece; the text that is certain now. Calls that are complete are in `calls`."""
        self._held += piece
        certain = ""
        while True:
            before, tag, after = self._held.partition(CLOSE if self._inside else OPEN)
            if not tag:
                break
            certain += self._closed(before, CLOSE) if self._inside else self._text(before)
            self._inside, self._held = not self._inside, after
        if not self._inside:
            kept = next((size for size in range(len(OPEN) - 1, 0, -1) if self._held.endswith(OPEN[:size])), 0)
            free = len(self._held) - kept
            certain += self._text(self._held[:free])
            self._held = self._held[free:]
        return certain

    def end(self) -> str:
        """The text that was delayed. A call without its last tag counts if its JSON is whole."""
        held, self._held = self._held, ""
        if self._inside:
            return self._closed(held, "")
        rest = self._spaces + held
        return "" if self.calls and not rest.strip() else rest

    def _text(self, text: str) -> str:
        """Text outside of calls, without the spaces at its end."""
        text = self._spaces + text
        shown = text.rstrip()
        self._spaces = text[len(shown) :]
        return shown

    def _closed(self, text: str, tag: str) -> str:
        """The content of a call has ended: "" for a call, its whole text for what is none."""
        found = _calls_in(text)
        spaces, self._spaces = self._spaces, ""
        if found is None:
            return spaces + OPEN + text + tag
        self.calls += found
        return ""


def _calls_in(text: str) -> list[ToolCall] | None:
    """The calls that a JSON text holds, at least one; None if it is something else."""
    try:
        data = json.loads(text, parse_constant=_no_json)
        calls = [_call(each) for each in (data if isinstance(data, list) else [data])]
    except (ValueError, RecursionError):  # the model may write anything
        return None
    return calls or None


def _call(data: Any) -> ToolCall:
    """Raises ValueError for what is no call."""
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str) or not is_text(name):
        raise ValueError("no name")
    arguments = data.get("arguments", data.get("parameters", {}))
    if not isinstance(arguments, dict):
        raise ValueError("no arguments")
    written = json.dumps(arguments, ensure_ascii=False)
    if not is_text(written):  # half of a surrogate pair cannot be sent as it is
        written = json.dumps(arguments)
    return ToolCall(f"call_{uuid.uuid4().hex[:24]}", name, written)


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def for_template(messages: Sequence[Any]) -> list[Any]:
    """The messages with the arguments of earlier calls as objects: templates write them as JSON again."""
    return [_with_objects(each) for each in messages]


def _with_objects(message: Any) -> Any:
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(arguments, str):
        return call
    try:
        return {**call, "function": {**function, "arguments": json.loads(arguments)}}
    except (ValueError, RecursionError):  # a caller may send back what another model wrote
        return call
