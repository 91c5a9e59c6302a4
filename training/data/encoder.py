"""Text, prompts with completions, and conversations as Documents: token ids, and which of them are answers.

The text before an answer is encoded exactly as `nbdiff_engine.decoding.prompts` encodes a prompt for decoding.
"""

import logging
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from transformers import PreTrainedTokenizerBase

from nbdiff_engine.decoding.chat import each_text, render
from nbdiff_engine.decoding.control_tokens import ControlTokens
from nbdiff_engine.errors import PromptError, brief, brief_text, is_text
from training.data.conversations import Conversation, read_messages
from training.data.documents import Document
from training.errors import DataError

logger = logging.getLogger(__name__)

# A conversation that shows whether a template changes earlier answers. It may still change only those with tags.
_PROBE = [{"role": role, "content": text} for role, text in (("user", "Hello"), ("assistant", "42"))] * 2
_TAG = re.compile(r"</?\w|\[/?[A-Z]")


class Encoder:
    """Encodes text, prompts with completions, and conversations as Documents, with one tokenizer.

    eos_token_ids: each of them ends an answer. If the chat template writes none, the first is appended; for a set,
        which has no order, the tokenizer's own EOS.
    bos_before_template: as in BlockModel, for families whose prompt is a BOS followed by the template's text.
    raw: encode prompts as plain text, even if there is a chat template.
    forbidden_ids: tokens that no document may contain, such as MASK.
    control_tokens: whether names such as <|im_end|> in a row become control tokens; if not, they are text.
    template_arguments: of the chat template, as in `prompts.encode`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: Sequence[int] | Set[int],
        bos_before_template: bool = False,
        raw: bool = False,
        forbidden_ids: Sequence[int] = (),
        control_tokens: bool = False,
        template_arguments: Mapping[str, Any] | None = None,
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
        self.template_arguments = dict(template_arguments or {})
        if self.template_arguments:
            if not self.has_template:
                raise DataError("data.template_arguments are for a chat template, but there is none; leave them out.")
            try:
                render("the checkpoint", tokenizer, _PROBE[:1], self.template_arguments)
            except PromptError as error:
                raise DataError(f"data.template_arguments: {error}") from error
        self._answers_apart: bool | None = None  # of the probe

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
            turn = (("user", prompt), ("assistant", completion))
            return self.encode_conversation(Conversation([{"role": role, "content": text} for role, text in turn]))
        prompt, completion = self._marked(prompt), self._marked(completion)
        ids = self._tokenize(prompt, special=True)
        return self._one_turn(ids, self._continuation(prompt, ids, completion, special=True))

    def encode_messages(self, messages: Sequence[Mapping[str, Any]]) -> Document:
        """A conversation as one document, see `encode_conversation`."""
        return self.encode_conversation(Conversation(read_messages(messages)).required())

    def documents_of(self, conversation: Conversation) -> int:
        """The number of documents of a conversation: 1, or one for each answer if the template changes earlier ones.

        Templates such as Qwen3's write the last answer differently, or drop the reasoning of earlier ones. Then no
        single text holds every answer after the context that the engine reads. Raises DataError if there is no answer
        that the template writes.
        """
        answers = len(self._answers_of(conversation))
        if answers < 2 or not self.has_template:
            return 1
        if self._answers_apart is None:
            try:
                self._answers_apart = self._together(Conversation(_PROBE)) is None
            except DataError:
                self._answers_apart = False
        unusual = any(each.get("tool_calls") or _TAG.search(each["content"]) for each in conversation.messages)
        unusual = unusual or bool(conversation.beside_text())
        if self._answers_apart or (unusual and self._together(self._checked(conversation)) is None):
            return answers
        return 1

    def encode_conversation(self, conversation: Conversation, answer: int | None = None) -> Document:
        """A conversation. Each answer of the assistant is a turn; messages after the last answer are left out.

        answer: only this answer is a turn, and the messages after it are left out; see `documents_of`. Without it, if
        the template changes earlier answers, only the last is a turn.
        """
        if not self.has_template:
            raise DataError("A conversation needs a chat template, but there is none; give prompts and completions.")
        conversation = self._checked(conversation.required())
        if answer is None and (together := self._together(conversation)) is not None:
            return together
        if answer is None:
            self.last_turn_only += 1
            if _is_reported(self.last_turn_only):
                logger.warning(
                    "conversations trained on their last answer only, because the chat template changes earlier ones: "
                    "%d so far",
                    self.last_turn_only,
                )
        index = self._answers_of(conversation)[-1 if answer is None else answer]
        text, prompt = self._prompt(conversation.up_to(index))
        return self._one_turn(prompt, self._answer(conversation.up_to(index + 1), text, prompt))

    def unread(self, conversation: Conversation) -> set[str]:
        """What a conversation holds beside text that the chat template does not write, such as tool_calls."""
        names = conversation.beside_text()
        if not names:
            return names
        if not self.has_template:
            return names
        template = self.tokenizer.get_chat_template(None, conversation.tools)
        return {name for name in names if not re.search(rf"\b{name}\b", template)}

    def _answers_of(self, conversation: Conversation) -> list[int]:
        """The indices of the answers, without those of which the template writes nothing: of tool calls alone.

        Trained on, these would teach to answer with nothing. Raises DataError if no other is left.
        """
        answers = conversation.answers
        silent = [at for at in answers if not conversation.messages[at]["content"].strip()]
        if self.has_template and silent and "tool_calls" in self.unread(conversation):
            answers = [at for at in answers if at not in silent]
        if not answers:
            raise DataError("Its only answers are tool calls, which the chat template does not write.")
        return answers

    def _checked(self, conversation: Conversation) -> Conversation:
        """The conversation in marked form. Raises DataError for a message without text."""
        for message in conversation.messages:
            if message["role"] != "system" and not message.get("tool_calls"):
                _require_text(f"message of the {message['role']}", message["content"])
        messages, tools = each_text([conversation.messages, conversation.tools], self._marked)
        return Conversation(messages, tools, conversation.first)

    def _together(self, conversation: Conversation) -> Document | None:
        """All answers as turns of one document; None if the template writes an earlier answer differently later."""
        ids: list[int] = []
        turns: list[tuple[int, int]] = []
        for index in self._answers_of(conversation):
            text, prompt = self._prompt(conversation.up_to(index))
            if prompt[: len(ids)] != ids:
                return None
            answer = self._answer(conversation.up_to(index + 1), text, prompt)
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

    def _prompt(self, conversation: Conversation) -> tuple[str, list[int]]:
        """The prompt that the model reads before it answers, as text and as ids, as in `prompts.encode`."""
        text = self._render(conversation, add_generation_prompt=True)
        return text, self._with_bos(self._tokenize(text, special=False))

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if self.bos_before_template and bos is not None and ids[:1] != [bos] else ids

    def _answer(self, conversation: Conversation, prompt_text: str, prompt: list[int]) -> list[int]:
        """The ids of the last message, through its EOS. Text that the template writes after the EOS is left out."""
        rendered = self._render(conversation, add_generation_prompt=False)
        if rendered.startswith(prompt_text):
            return self._ended(self._continuation(prompt_text, prompt, rendered[len(prompt_text) :], special=False))
        # The template does not repeat its generation prompt, for example one that begins a thought. Then the content
        # follows the generation prompt, with the EOS that the template writes after an answer.
        if conversation.messages[-1].get("tool_calls"):
            raise DataError("The chat template does not write the tool calls of an answer after its generation prompt.")
        content = self._tokenize(conversation.messages[-1]["content"], special=False)
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

    def _render(self, conversation: Conversation, add_generation_prompt: bool) -> str:
        arguments = self.template_arguments | ({"tools": conversation.tools} if conversation.tools else {})
        try:
            return self.tokenizer.apply_chat_template(
                conversation.messages, tokenize=False, add_generation_prompt=add_generation_prompt, **arguments
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
