"""The answers of one request as JSON in OpenAI's shape: chunks of a stream, or one object at the end."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from nbdiff_engine.decoding.answer_text import TokenTexts
from nbdiff_engine.decoding.live_text import LiveText
from nbdiff_engine.generate import DecodeJob
from nbdiff_engine.serving.tool_calls import ToolCall, ToolCallReader
from nbdiff_engine.trace.events import DecodeEvent, Finish, FinishReason, Fixed, TokenLogprobs, Verify
from nbdiff_engine.trace.trace_file import FORMAT, VERSION, pack, token_ids_of


def trace_head(job: DecodeJob) -> dict[str, Any]:
    """The entries of a trace that come before its events."""
    spec = job.model.spec
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": job.model.name,
        "settings": job.settings,
        "mask_token_id": None if spec is None else spec.mask_token_id,
        "prompt": job.texts[0],
        "prompt_ids": job.prompts[0],
    }


class Choice:
    """One answer while it is decoded. index: of the answer in the response."""

    def __init__(self, index: int, job: DecodeJob, chat: bool, tools: bool):
        self.index = index
        self.finish_reason: str | None = None
        self._reader = ToolCallReader() if tools else None
        self._job = job
        self._chat = chat
        self._live = LiveText(job.plan, len(job.prompts[0]))
        self._pieces: list[str] = []
        self._fixed: dict[int, Fixed] = {}
        self._reported = 0  # tokens whose log-probabilities were given out
        self._named: set[int] = set()  # tokens whose texts were given out
        self._offset = 0  # characters of the tokens before the next one, for the older route

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def tokens(self) -> int:
        return len(self._live.tokens)

    @property
    def calls(self) -> list[ToolCall]:
        """The tool calls so far."""
        return [] if self._reader is None else self._reader.calls

    def add(self, event: DecodeEvent) -> str:
        """Advance by one event: the text that is certain now and was not before. Tool calls are no text."""
        finished = isinstance(event, Finish)
        if not finished:
            self._fixed |= {each.position: each for each in event.fixed}
        piece = self._live.add(event)
        if self._reader is not None:
            piece = self._reader.add(piece)
            piece += self._reader.end() if finished else ""
        self._pieces.append(piece)
        if finished:
            self.finish_reason = "tool_calls" if self.calls else "stop"
            if event.reason is FinishReason.LENGTH:
                self.finish_reason = "length"
        return piece

    def logprobs(self, whole: bool = False) -> dict[str, Any] | None:
        """The log-probabilities of the tokens whose text was given out since the last call, or of the whole answer;
        None if they are not asked for, or there is no such token.

        Tokens without text are left out: those that end the answer, and those of a stop string.
        """
        if self._job.plan.settings.logprobs is None:
            return None
        texts, tokens = self._job.plan.texts, self._live.tokens
        if whole:
            self._reported = self._offset = 0
        first, self._reported = self._reported, self._live.shown_tokens
        own = []
        for position in range(first, self._reported):
            fixed = self._fixed.get(position)
            if (
                tokens[position] not in self._job.plan.end_token_ids
                and fixed is not None
                and fixed.logprobs is not None
            ):
                own.append((tokens[position], fixed.logprobs))
        if texts is None or not (own or whole):
            return None
        return _chat_logprobs(texts, own) if self._chat else self._older_logprobs(texts, own)

    def _older_logprobs(self, texts: TokenTexts, own: Sequence[tuple[int, TokenLogprobs]]) -> dict[str, Any]:
        names = [texts.alone(token) for token, _ in own]
        offsets = []
        for name in names:
            offsets.append(self._offset)
            self._offset += len(name)
        return {
            "tokens": names,
            "token_logprobs": [logs.logprob for _, logs in own],
            "top_logprobs": [{texts.alone(token): p for token, p in logs.top} for _, logs in own],
            "text_offset": offsets,
        }

    def trace_part(self, event: DecodeEvent) -> dict[str, Any]:
        """An event as a part of a trace (docs/trace-format.md), with the texts of the tokens that are new in it."""
        new = token_ids_of([event]) - self._named
        self._named |= new
        job = self._job
        part: dict[str, Any] = {"event": pack(event), "pieces": {str(id): t for id, t in job.pieces_of(new).items()}}
        if partial := job.partial_bytes_of(new):
            part["bytes"] = {str(token): each.hex() for token, each in partial.items()}
        if isinstance(event, Verify) and event.candidates:
            part["candidates"] = [list(each) for each in event.candidates]
        if isinstance(event, Finish):
            part["answer_pieces"] = job.answer_pieces(event.token_ids)
        return part


def _chat_logprobs(texts: TokenTexts, own: Sequence[tuple[int, TokenLogprobs]]) -> dict[str, Any]:
    def entry(token: int, logprob: float) -> dict[str, Any]:
        name = texts.alone(token)
        return {"token": name, "logprob": logprob, "bytes": list(texts.partial(token) or name.encode())}

    return {
        "content": [
            {**entry(token, logs.logprob), "top_logprobs": [entry(*each) for each in logs.top]} for token, logs in own
        ],
        "refusal": None,
    }


class HttpReply:
    """All answers of one HTTP request."""

    def __init__(self, model: str, chat: bool, denoise: bool = False, tools: bool = False):
        """tools: whether tool calls are looked for."""
        self.chat, self.denoise, self.tools = chat, denoise, tools
        self.choices: list[Choice] = []
        self.cached_tokens = 0
        self._prompt_tokens = 0
        self._model = model
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def add_prompt(self, job: DecodeJob, copies: int) -> list[dict[str, Any]]:
        """Take one more prompt with its answers; the chunks that begin them."""
        self._prompt_tokens += len(job.prompts[0])
        new = [Choice(len(self.choices) + at, job, self.chat, self.tools) for at in range(copies)]
        head = trace_head(job) if self.denoise else None
        self.choices += new
        if not self.chat and not self.denoise:
            return []
        return [
            self._chunk(self._choice(choice, {"role": "assistant", "content": ""} if self.chat else ""), head)
            for choice in new
        ]

    def add(self, index: int, event: DecodeEvent) -> dict[str, Any] | None:
        """Advance one answer; the chunk that says what is new, or None."""
        choice = self.choices[index]
        known = len(choice.calls)
        piece = choice.add(event)
        calls = [{"index": at, **call.to_json()} for at, call in enumerate(choice.calls)][known:]
        finished = isinstance(event, Finish)
        logprobs = choice.logprobs() if piece or calls or finished else None
        if not piece and not calls and not finished and not self.denoise:
            return None
        delta: Any = piece
        if self.chat:
            delta = ({"content": piece} if piece else {}) | ({"tool_calls": calls} if calls else {})
        return self._chunk(
            self._choice(choice, delta, logprobs, choice.finish_reason),
            choice.trace_part(event) if self.denoise else None,
        )

    def usage(self) -> dict[str, Any]:
        """The tokens of prompts and answers; an EOS counts."""
        answered = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": answered,
            "total_tokens": self._prompt_tokens + answered,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def usage_chunk(self) -> dict[str, Any]:
        """The last chunk of a stream whose options ask for the usage."""
        return self._chunk(None) | {"usage": self.usage()}

    def whole(self) -> dict[str, Any]:
        """The response without a stream, once all answers are finished."""
        choices = []
        for choice in self.choices:
            content: dict[str, Any] = {"text": choice.text}
            if self.chat:
                message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
                if choice.calls:
                    calls = [call.to_json() for call in choice.calls]
                    message |= {"content": choice.text or None, "tool_calls": calls}
                content = {"message": message}
            logprobs = choice.logprobs(whole=True)
            choices.append(
                {"index": choice.index, **content, "logprobs": logprobs, "finish_reason": choice.finish_reason}
            )
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _choice(
        self, choice: Choice, delta: Any, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        content = {"delta": delta} if self.chat else {"text": delta}
        return {"index": choice.index, **content, "logprobs": logprobs, "finish_reason": finish_reason}

    def _chunk(self, choice: dict[str, Any] | None, trace: dict[str, Any] | None = None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        own = {} if trace is None else {"nbdiff": trace}
        return {**self._head(kind), "choices": [] if choice is None else [choice], **own}
