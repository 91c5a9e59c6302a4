"""From a row of data to a Document: the columns that are read, and how text and conversations become token ids.

The text before an answer is encoded exactly as `nbdiff_engine.decoding.prompts` encodes a prompt for decoding.
"""

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from nbdiff_engine.decoding.control_tokens import ControlTokens
from nbdiff_engine.errors import PromptError, brief, brief_text, is_text
from training.data.data_settings import ROLES, DataSettings
from training.data.documents import Document
from training.errors import DataError

logger = logging.getLogger(__name__)

Message = Mapping[str, str]  # {"role": ..., "content": ...}

_MESSAGES = ("messages", "conversations", "conversation")
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
)
_INPUTS = ("input", "context")  # the material of an instruction
_TEXT = ("text", "content")

# The values of ShareGPT's "from", and the usual roles.
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True, slots=True)
class Format:
    """The kind of a row, and the columns that are read.

    columns: (text,), (messages,), (prompt, completion) or (prompt, completion, input). The input may be blank; it
    follows the prompt after an empty line.
    """

    kind: Literal["text", "prompt", "messages"]
    columns: tuple[str, ...]

    def holds_text(self, row: Mapping[str, Any]) -> bool:
        """Whether all required text of a row is not blank. Raises DataError for a value that is not text."""
        values = [row[column] for column in self.columns[:2]]
        if self.kind == "messages":
            return all(message["content"].strip() for message in _through_last_answer(read_messages(values[0])))
        for column, value in zip(self.columns, values):
            if not isinstance(value, str):
                raise DataError(f"Its {column!r} is {brief(value)}, which is not text.")
        return all(value.strip() for value in values)

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """All text of a row, to train a tokenizer."""
        values = [row[column] for column in self.columns]
        if self.kind == "messages":
            return [message["content"] for message in read_messages(values[0])]
        return [value for value in values if isinstance(value, str)]

    def encode(self, row: Mapping[str, Any], encoder: "Encoder") -> Document:
        """The Document of a row."""
        values = [row[column] for column in self.columns]
        if self.kind == "text":
            return encoder.encode_text(values[0])
        if self.kind == "messages":
            return encoder.encode_messages(values[0])
        prompt, completion, *rest = values
        if rest and isinstance(rest[0], str) and rest[0].strip():
            prompt = f"{prompt}\n\n{rest[0]}"
        return encoder.encode_pair(prompt, completion)


def detect_format(column_names: Sequence[str], settings: DataSettings) -> Format:
    """The format of rows with these columns. The settings come first, then the usual names of columns.

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
            return Format(kind, found)
    wanted = " or ".join(_COLUMNS_OF[kind] for kind in kinds)
    raise DataError(
        f"The data has no column {wanted}; the columns are {', '.join(column_names)}. "
        "Name the columns to read in `columns`, by role: text, prompt and completion, or messages."
    )


_COLUMNS_OF = {"messages": "'messages'", "prompt": "'prompt' with 'completion'", "text": "'text'"}


def _find_messages(names: Sequence[str], named: Mapping[str, str]) -> tuple[str, ...] | None:
    column = named.get("messages") or next((name for name in _MESSAGES if name in names), None)
    return None if column is None else (column,)


def _find_pair(names: Sequence[str], named: Mapping[str, str]) -> tuple[str, ...] | None:
    for usual_prompt, usual_completion in _PAIRS:
        prompt, completion = named.get("prompt", usual_prompt), named.get("completion", usual_completion)
        if prompt in names and completion in names:
            inputs = _INPUTS if prompt == "instruction" else ()
            material = named.get("input") or next((name for name in inputs if name in names), None)
            return (prompt, completion) if material is None else (prompt, completion, material)
    return None


def _find_text(names: Sequence[str], named: Mapping[str, str]) -> tuple[str, ...] | None:
    column = named.get("text") or next((name for name in _TEXT if name in names), None)
    return None if column is None else (column,)


def read_messages(value: Any) -> list[dict[str, str]]:
    """A conversation as a list of role and content. value: the same, or ShareGPT's from and value.

    Raises DataError if it has another form, if a content is not text, or if it has no answer of the assistant. A
    greeting at the start of a conversation is not an answer.
    """
    if not isinstance(value, (list, tuple)):
        raise DataError(f"The conversation is {brief(value)}; it must be a list of messages.")
    messages = []
    for message in value:
        known = message if isinstance(message, Mapping) else {}
        role, content = known.get("role"), known.get("content")
        if role is None:
            role, content = _SHAREGPT_ROLES.get(known.get("from")), known.get("value")
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"The message {brief(message)} is not {{'role': ..., 'content': ...}} with two strings.")
        messages.append({"role": role, "content": content})
    if not _answers(messages):
        raise DataError("The conversation has no answer of the assistant, so there is nothing to train on.")
    return messages


def _answers(messages: Sequence[Message]) -> list[int]:
    """The indices of the assistant's messages, except a first one."""
    return [index for index, message in enumerate(messages) if index and message["role"] == "assistant"]


def _through_last_answer(messages: Sequence[Message]) -> list[Message]:
    """The messages through the last answer, without those of the system, whose text may be empty."""
    return [message for message in messages[: _answers(messages)[-1] + 1] if message["role"] != "system"]


class Encoder:
    """Encodes text, prompts with completions, and conversations as Documents, with one tokenizer.

    eos_token_ids: each of them ends an answer. If the chat template writes none, the first is appended; for a set,
        which has no order, the tokenizer's own EOS.
    bos_before_template: as in BlockModel, for families whose prompt is a BOS followed by the template's text.
    raw: encode prompts as plain text, even if there is a chat template.
    forbidden_ids: tokens that no document may contain, such as MASK.
    control_tokens: whether names such as <|im_end|> in a row become control tokens; if not, they are text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: Sequence[int] | Set[int],
        bos_before_template: bool = False,
        raw: bool = False,
        forbidden_ids: Sequence[int] = (),
        control_tokens: bool = False,
    ) -> None:
        if not eos_token_ids:
            raise DataError("The checkpoint has no end-of-sequence token, so no document can be ended.")
        self.tokenizer = tokenizer
        own = tokenizer.eos_token_id
        self.eos_token_id = (
            own if isinstance(eos_token_ids, Set) and own in eos_token_ids else next(iter(eos_token_ids))
        )
        self.eos_token_ids = frozenset(eos_token_ids)
        self.bos_before_template = bos_before_template
        self.raw = raw
        self.forbidden_ids = frozenset(forbidden_ids)
        self.control = ControlTokens(tokenizer, (*eos_token_ids, *forbidden_ids))
        self.control_tokens = control_tokens
        self.names_as_text = 0  # texts with names of control tokens, encoded as text
        self.last_turn_only = 0  # conversations in which only the last answer is a turn

    @property
    def has_template(self) -> bool:
        """Whether prompts are written with a chat template."""
        return bool(self.tokenizer.chat_template) and not self.raw

    def encode_text(self, text: str) -> Document:
        """Plain text with an EOS; all tokens are trained on."""
        _require_text("text", text)
        ids = self._tokenize(self._marked(text), special=True)
        return self._document(ids if ids[-1:] and ids[-1] in self.eos_token_ids else [*ids, self.eos_token_id], None)

    def encode_pair(self, prompt: str, completion: str) -> Document:
        """A prompt as the engine encodes it, and its completion as the only turn."""
        _require_text("prompt", prompt)
        _require_text("completion", completion)
        if self.has_template:
            return self.encode_messages(
                [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
            )
        prompt, completion = self._marked(prompt), self._marked(completion)
        ids = self._tokenize(prompt, special=True)
        return self._one_turn(ids, self._continuation(prompt, ids, completion, special=True))

    def encode_messages(self, messages: Sequence[Message]) -> Document:
        """A conversation. Each answer of the assistant is a turn; messages after the last answer are left out.

        Some templates change earlier answers: they drop the reasoning, or write no EOS of the model. Then only the
        last answer is a turn, after the context that the engine reads.
        """
        if not self.has_template:
            raise DataError("A conversation needs a chat template, but there is none; give prompts and completions.")
        messages = read_messages(messages)
        for message in _through_last_answer(messages):
            _require_text(f"message of the {message['role']}", message["content"])
        messages = [{key: self._marked(each) for key, each in message.items()} for message in messages]
        answers = _answers(messages)
        ids: list[int] = []
        turns: list[tuple[int, int]] = []
        for index in answers:
            text, prompt = self._prompt(messages[:index])
            if prompt[: len(ids)] != ids:
                return self._last_turn(messages[: answers[-1] + 1])
            answer = self._answer(messages[: index + 1], text, prompt)
            turns.append((len(prompt), len(prompt) + len(answer)))
            ids = prompt + answer
        return self._document(ids, turns)

    def _marked(self, text: str) -> str:
        """The text for the tokenizer: the names of control tokens in it are text, unless they are asked for."""
        if self.control_tokens:
            return self.control.escape(text)
        if (name := self.control.named_in(text)) is not None:
            self.names_as_text += 1
            if _is_reported(self.names_as_text):
                logger.warning(
                    "texts with the name of a control token, such as %s, which is encoded as text (data.control_tokens "
                    "makes it a control token): %d so far",
                    name,
                    self.names_as_text,
                )
        return self.control.mark(text)

    def _last_turn(self, messages: Sequence[Message]) -> Document:
        self.last_turn_only += 1
        if _is_reported(self.last_turn_only):
            logger.warning(
                "conversations trained on their last answer only, because the chat template changes earlier ones: "
                "%d so far",
                self.last_turn_only,
            )
        text, prompt = self._prompt(messages[:-1])
        return self._one_turn(prompt, self._answer(messages, text, prompt))

    def _prompt(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """The prompt that the model reads before it answers, as text and as ids, as in `prompts.encode`."""
        text = self._render(messages, add_generation_prompt=True)
        return text, self._with_bos(self._tokenize(text, special=False))

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if self.bos_before_template and bos is not None and ids[:1] != [bos] else ids

    def _answer(self, messages: Sequence[Message], prompt_text: str, prompt: list[int]) -> list[int]:
        """The ids of the last message, through its EOS. Text that the template writes after the EOS is left out."""
        rendered = self._render(messages, add_generation_prompt=False)
        if rendered.startswith(prompt_text):
            return self._ended(self._continuation(prompt_text, prompt, rendered[len(prompt_text) :], special=False))
        # The template does not repeat its generation prompt, for example one that begins a thought. Then the content
        # follows the generation prompt, with the EOS that the template writes after an answer.
        content = self._tokenize(messages[-1]["content"], special=False)
        written = [token for token in self._tokenize(rendered, special=False) if token in self.eos_token_ids]
        return self._ended([*content, *written[-1:]])

    def _continuation(self, text: str, ids: list[int], rest: str, special: bool) -> list[int]:
        """The ids of `rest` after `text`. ids: those of `text`, which must not change.

        Both are tokenized together if this does not change `ids`, because some tokenizers add a space before a text
        that is tokenized alone. Otherwise `rest` is tokenized alone.
        """
        together = self._tokenize(text + rest, special)
        if not special:
            together = self._with_bos(together)
        if together[: len(ids)] == ids:
            return together[len(ids) :]
        return self._tokenize(rest, special=False)

    def _ended(self, answer: list[int]) -> list[int]:
        """An answer through its first EOS, where decoding stops. If it has no EOS, one is appended."""
        for place, token in enumerate(answer):
            if token in self.eos_token_ids:
                return answer[: place + 1]
        return [*answer, self.eos_token_id]

    def _one_turn(self, prompt: list[int], answer: list[int]) -> Document:
        ids = prompt + self._ended(answer)
        return self._document(ids, [(len(prompt), len(ids))])

    def _document(self, ids: list[int], turns: Sequence[tuple[int, int]] | None) -> Document:
        if not self.forbidden_ids.isdisjoint(ids):
            token = next(token for token in ids if token in self.forbidden_ids)
            raise DataError(
                f"It contains {brief(self.tokenizer.convert_ids_to_tokens(token))} (token id {token}), "
                "which is the MASK token; remove it."
            )
        if turns and turns[0][0] == 0:
            raise DataError("There is no prompt before the answer.")
        return Document(tuple(ids), None if turns is None else tuple(turns))

    def _tokenize(self, text: str, special: bool) -> list[int]:
        """text: in the marked form of `ControlTokens`, as all texts of the methods above this one."""
        try:
            return self.control.encode(text, add_special_tokens=special)
        except PromptError as error:
            raise DataError(str(error)) from error

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # the template is a program of the checkpoint and may raise any exception
            raise DataError(f"The chat template refuses this conversation: {brief_text(str(error), 200)}") from error


def _is_reported(count: int) -> bool:
    return count in (1, 10, 100, 1000) or count % 10_000 == 0


def _require_text(what: str, text: str) -> None:
    if not isinstance(text, str):
        raise DataError(f"The {what} is {brief(text)}, which is not text.")
    if not text.strip():
        raise DataError(f"The {what} is empty.")
    if not is_text(text):
        raise DataError(f"The {what} is not valid text: it contains half of a surrogate pair.")
