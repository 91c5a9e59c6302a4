"""From the columns of a data set to its format, and from a row to the text or the conversation that it holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nbdiff_engine.errors import brief
from training.data.conversations import Conversation, earlier_turns, read_messages, read_tools, with_system
from training.data.data_settings import ROLES, DataSettings
from training.errors import DataError

_MESSAGES = ("messages", "conversations", "conversation")
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "response"),
    ("query", "response"),
    ("input", "output"),
    ("prompt", "answer"),
    ("prompt", "output"),
    ("instruction", "answer"),
)
_BESIDE_NAMES = {"system": ("system", "system_prompt"), "history": ("history",), "tools": ("tools",)}
_INPUTS = ("input", "context")  # the material of an instruction
_TEXT = ("text", "content")
_BESIDE = {"messages": ("system", "tools"), "prompt": ("system", "history", "tools"), "text": ()}
_PROMPTS = (*dict.fromkeys(prompt for prompt, _ in _PAIRS), *_TEXT)


@dataclass(frozen=True, slots=True)
class Format:
    """The kind of a row, and the columns that are read.

    columns: (text,), (messages,), (prompt, completion) or (prompt, completion, input). The input may be blank; it
    follows the prompt after an empty line.
    beside: (name, column) of further columns of a conversation: system, history (of Alpaca), tools.
    """

    kind: Literal["text", "prompt", "messages"]
    columns: tuple[str, ...]
    beside: tuple[tuple[str, str], ...] = ()

    @property
    def all_columns(self) -> list[str]:
        return list(dict.fromkeys((*self.columns, *(column for _, column in self.beside))))

    def holds_text(self, row: Mapping[str, Any]) -> bool:
        """Whether all required text of a row is not blank. Raises DataError for a value that is not text."""
        if (conversation := self.conversation(row)) is not None:
            return conversation.is_complete()
        values = [row[column] for column in self.columns[:2]]
        for column, value in zip(self.columns, values):
            if not isinstance(value, str):
                raise DataError(f"Its {column!r} is {brief(value)}, which is not text.")
        return all(value.strip() for value in values)

    def conversation(self, row: Mapping[str, Any]) -> Conversation | None:
        """The conversation of a row; None for plain text, and for a prompt with a completion and nothing else.

        Raises DataError for another form.
        """
        if self.kind == "text":
            return None
        known = {name: row[column] for name, column in self.beside}
        tools = read_tools(known.get("tools"))
        if self.kind == "messages":
            messages = read_messages(row[self.columns[0]])
            return Conversation(with_system(messages, known.get("system")), tools).required()
        prompt, completion = (row[column] for column in self.columns[:2])
        if not isinstance(prompt, str) and isinstance(prompt, Sequence):  # of messages, as trl reads them
            before = with_system(read_messages(prompt), known.get("system"))
            after = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
            return Conversation(before + read_messages(after), tools, first=max(1, len(before))).required()
        before = with_system(earlier_turns(known.get("history")), known.get("system"))
        if (not before and not tools) or not (isinstance(prompt, str) and isinstance(completion, str)):
            return None
        turn = [("user", self.prompt(row)), ("assistant", completion)]
        return Conversation([*before, *({"role": role, "content": content} for role, content in turn)], tools)

    def is_pair(self, row: Mapping[str, Any]) -> bool:
        """Whether a row can be encoded without a chat template: a prompt and its completion, both text."""
        return self.kind == "prompt" and all(isinstance(row[column], str) for column in self.columns[:2])

    def prompt(self, row: Mapping[str, Any]) -> str:
        """The prompt of a row, with its input."""
        prompt, _, *rest = (row[column] for column in self.columns)
        return f"{prompt}\n\n{rest[0]}" if rest and isinstance(rest[0], str) and rest[0].strip() else prompt

    def key(self, row: Mapping[str, Any]) -> str:
        """What rows share if one must not be held out while another is trained on: the text before the first answer."""
        if (conversation := self.conversation(row)) is not None:
            return repr(conversation.messages[: conversation.answers[0]])
        return self.prompt(row) if self.kind == "prompt" else row[self.columns[0]]

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """All text of a row, to train a tokenizer."""
        if (conversation := self.conversation(row)) is not None:
            return [message["content"] for message in conversation.messages]
        values = [row[column] for column in self.columns]
        return [value for value in values if isinstance(value, str)]


def detect_format(column_names: Sequence[str], settings: DataSettings) -> Format:
    """The format of rows with these columns. The settings come first, then the usual names of columns, in any case.

    Raises DataError if a column is missing.
    """
    for role, column in settings.columns.items():
        if column not in column_names:
            raise DataError(
                f"There is no column {brief(column)} for the {role}; the columns are {', '.join(column_names)}."
            )
    # Conversations come first: a table with a conversation often repeats the first prompt in another column.
    find = {"messages": _find_messages, "prompt": _find_pair, "text": _find_text}
    if settings.format != "auto":
        kinds = [settings.format]
    elif settings.columns:
        kinds = [ROLES[next(iter(settings.columns))]]
    else:
        kinds = [kind for kind in find if not (settings.raw and kind == "messages")]
    for kind in kinds:
        found = find[kind](column_names, settings.columns)
        if found is not None:
            beside = [(name, _named(column_names, _BESIDE_NAMES[name])) for name in _BESIDE[kind]]
            return Format(
                kind, found, tuple((name, column) for name, column in beside if column and column not in found)
            )
    wanted = " or ".join(_COLUMNS_OF[kind] for kind in kinds)
    raise DataError(
        f"The data has no column {wanted}; the columns are {', '.join(column_names)}. Name those to read, such as "
        f"--set '{_example(column_names, kinds)}'."
    )


_COLUMNS_OF = {"messages": "'messages'", "prompt": "'prompt' with 'completion'", "text": "'text'"}


def _example(names: Sequence[str], kinds: Sequence[str]) -> str:
    """A setting that names columns of the data by role, to copy."""
    if "prompt" in kinds and len(names) > 1:
        return f"data.columns={{prompt: {names[0]}, completion: {names[1]}}}"
    return f"data.columns={{{'text' if 'text' in kinds else kinds[0]}: {names[0]}}}"


def _named(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The first column with a usual name, written in any case."""
    lower = {name.lower(): name for name in reversed(names)}
    return next((name if name in names else lower[name] for name in usual if name in names or name in lower), None)


def _find_messages(names: Sequence[str], named: Mapping[str, str]) -> tuple[str, ...] | None:
    column = named.get("messages") or _named(names, _MESSAGES)
    return None if column is None else (column,)


def _find_pair(names: Sequence[str], named: Mapping[str, str]) -> tuple[str, ...] | None:
    for usual_prompt, usual_completion in _PAIRS:
        prompt = named.get("prompt") or _named(names, (usual_prompt,))
        completion = named.get("completion") or _named(names, (usual_completion,))
        if prompt and completion:
            inputs = _INPUTS if prompt.lower() == "instruction" else ()
            material = named.get("input") or _named(names, inputs)
            return (prompt, completion) if material is None else (prompt, completion, material)
    return None


def _find_text(names: Sequence[str], named: Mapping[str, str]) -> tuple[str, ...] | None:
    column = named.get("text") or _named(names, _TEXT)
    return None if column is None else (column,)


def prompt_of(row: Mapping[str, Any]) -> str | Conversation:
    """The prompt of a row of any format: a text, or a conversation up to where the assistant answers.

    The answers of the row are left out after the last message of the user or of a tool. Raises DataError.
    """
    names = [name for name, value in row.items() if value is not None]
    beside = {name: row[column] for name, usual in _BESIDE_NAMES.items() if (column := _named(names, usual))}
    column = _named(names, _MESSAGES) or _named(names, _PROMPTS)
    value = None if column is None else row[column]
    if column is not None and column.lower() in _MESSAGES and isinstance(value, str) and value.lstrip().startswith("["):
        value = read_messages(value)
    tools = read_tools(beside.get("tools"))
    if isinstance(value, str):
        material = _named(names, _INPUTS) if column.lower() == "instruction" else None
        if material and isinstance(row[material], str) and row[material].strip():
            value = f"{value}\n\n{row[material]}"
        before = with_system(earlier_turns(beside.get("history")), beside.get("system"))
        return Conversation([*before, {"role": "user", "content": value}], tools) if before or tools else value
    if not isinstance(value, (list, tuple)):
        raise DataError(
            'It contains no prompt; a row is a string, or has a column such as "prompt", "text" or "messages", not '
            + (", ".join(names) or "nothing")
            + "."
        )
    messages = with_system(read_messages(value), beside.get("system"))
    asked = [at for at, each in enumerate(messages) if each["role"] in ("user", "tool")]
    if not asked:
        raise DataError("The conversation has no message of the user, so there is nothing to answer.")
    return Conversation(messages[: asked[-1] + 1], tools)
