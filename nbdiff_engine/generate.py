"""The main interface: `generate` for answers, `stream` for the events as they happen."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbdiff_engine.decoding.answer_text import AnswerText
from nbdiff_engine.decoding.live_text import LiveText
from nbdiff_engine.decoding.loop import decode
from nbdiff_engine.decoding.plan import DecodePlan, make_plan
from nbdiff_engine.decoding.prompts import Prompt, as_prompts, encode
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.decoding.start import Start, check_start
from nbdiff_engine.errors import SettingError
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.trace.events import DecodeEvent, Finish, FinishReason, TokenLogprobs, logprobs_of
from nbdiff_engine.trace.metrics import Metrics, measure
from nbdiff_engine.trace.trace_file import Trace, token_ids_of


@dataclass(frozen=True, slots=True)
class Output:
    """One answer. token_ids: including the EOS. text: without special tokens and without the stop string.

    logprobs: one for each of token_ids if the setting `logprobs` asks for them, None for a token that was there before.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    settings: dict[str, Any]
    metrics: Metrics
    trace: Trace | None
    logprobs: list[TokenLogprobs | None] | None = None


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """A checked request: prompts as token ids, settings filled in. `prepare` has raised all errors of the input."""

    model: BlockModel
    plan: DecodePlan
    texts: list[str | None]
    prompts: list[list[int]]
    begin: Start | None = None  # the part of the answer that exists already

    @property
    def settings(self) -> dict[str, Any]:
        return self.plan.settings.model_dump(mode="json")

    def events(self) -> Iterator[DecodeEvent]:
        """Decode; yields the events. Closing the iterator stops within one forward."""
        return decode(self.model, self.prompts, self.plan, begin=self.begin)

    def outputs(self) -> list[Output]:
        """Decode to the end: the answer to each prompt."""
        events: list[list[DecodeEvent]] = [[] for _ in self.prompts]
        for event in self.events():
            events[event.row].append(event)
        return [self.output(row, own) for row, own in enumerate(events)]

    def output(self, row: int, events: Sequence[DecodeEvent]) -> Output:
        """The answer of one row, from its events."""
        finish = events[-1]
        assert isinstance(finish, Finish)
        return Output(
            text=self.text_of(finish.token_ids),
            token_ids=list(finish.token_ids),
            finish_reason=finish.reason,
            settings=self.settings,
            metrics=measure(events),
            trace=self.trace(row, events) if self.plan.settings.trace else None,
            logprobs=None if self.plan.settings.logprobs is None else logprobs_of(events),
        )

    def trace(self, row: int, events: Sequence[DecodeEvent]) -> Trace:
        """The trace of one row, from its events."""
        mentioned = sorted(token_ids_of(events) | set(self.prompts[row]))
        spec = self.model.spec
        answer = events[-1].token_ids if events and isinstance(events[-1], Finish) else ()
        return Trace(
            model=self.model.name,
            settings=self.settings,
            mask_token_id=None if spec is None else spec.mask_token_id,
            prompt=self.texts[row],
            prompt_ids=tuple(self.prompts[row]),
            events=tuple(events),
            pieces=self.pieces_of(mentioned),
            partial_bytes=self.partial_bytes_of(mentioned),
            answer_pieces=tuple(self.answer_pieces(answer)),
        )

    def pieces_of(self, tokens: Iterable[int]) -> dict[int, str]:
        """The text of each token where a word precedes it; of a special token, its name."""
        texts = self.plan.texts
        return {} if texts is None else {token: texts.alone(token) for token in tokens}

    def partial_bytes_of(self, tokens: Iterable[int]) -> dict[int, bytes]:
        """The bytes of those tokens that begin or end within a character."""
        texts = self.plan.texts
        found = {} if texts is None else {token: texts.partial(token) for token in tokens}
        return {token: each for token, each in found.items() if each is not None}

    def answer_pieces(self, token_ids: Sequence[int]) -> list[str]:
        """The text that each token of an answer adds; joined, its text without regard to stop strings.

        A special token adds no text. A character of several tokens is added by the last of them. Empty for a model
        without a tokenizer.
        """
        return [] if self.plan.texts is None else self._written(token_ids).pieces

    def live_text(self) -> Callable[[DecodeEvent], str]:
        """For the only row: called with each of its events, gives the text that the event makes certain."""
        begun = () if self.begin is None else self.begin.committed
        return LiveText(self.plan, len(self.prompts[0]), begun).add

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Token ids as text, up to the first stop string. Empty for a model without a tokenizer."""
        return "" if self.plan.texts is None else self._written(token_ids).text

    def _written(self, token_ids: Sequence[int]) -> AnswerText:
        written = AnswerText(self.plan.texts, self.plan.settings.stop)
        for token in token_ids:
            written.add(token)
        written.end()
        return written


def prepare(
    model: BlockModel,
    prompt: Prompt | Sequence[Prompt],
    *,
    raw: bool = False,
    control_tokens: bool = False,
    template_arguments: Mapping[str, Any] | None = None,
    start: Start | None = None,
    **settings: Any,
) -> DecodeJob:
    """Check a request without decoding. Raises SettingError or PromptError with one sentence.

    raw, control_tokens, template_arguments: how the prompt is read, see `prompts.encode`.

    Remarks about valid settings are in `plan.notes`; `generate` and `stream` show them as warnings.
    start: the part of the answer that exists already, for a single prompt (see `forking.fork`).
    """
    if not isinstance(model, BlockModel):
        raise SettingError(f"The model is a {type(model).__name__}; load one with nbdiff_engine.load(name).")
    plan = make_plan(model, DecodeSettings.of(**settings))
    encoded = [
        encode(model, each, raw, control_tokens=control_tokens, template_arguments=template_arguments)
        for each in as_prompts(prompt)[0]
    ]
    if start is not None:
        if len(encoded) != 1:
            raise SettingError(f"An answer to continue from belongs to one prompt; {len(encoded)} were given.")
        check_start(model, plan, encoded[0][1], start)
    return DecodeJob(model, plan, [text for text, _ in encoded], [ids for _, ids in encoded], start)


def stream(
    model: BlockModel,
    prompt: Prompt | Sequence[Prompt],
    *,
    raw: bool = False,
    control_tokens: bool = False,
    template_arguments: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Iterator[DecodeEvent]:
    """Decode, event by event. settings: the fields of DecodeSettings. Errors of the input are raised by this call, not
    by the iterator. The other arguments are those of `generate`.

    For a batch, the events of all rows come in the order in which they happen; `event.row` is the index of the prompt.
    """
    job = prepare(
        model, prompt, raw=raw, control_tokens=control_tokens, template_arguments=template_arguments, **settings
    )
    _warn(job)
    return job.events()


def generate(
    model: BlockModel,
    prompt: Prompt | Sequence[Prompt],
    *,
    raw: bool = False,
    control_tokens: bool = False,
    template_arguments: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Output | list[Output]:
    """Decode to the end. One Output for one prompt, a list of Outputs for a list of prompts.

    A str is a user message if the tokenizer has a chat template (raw=True: plain text), a list of role/content dicts
    is a conversation, and a list, array or tensor of ints is token ids; rows of a two-dimensional one are a batch.
    A conversation that ends with a turn of the assistant is continued.

    control_tokens: whether names such as "<|im_end|>" in the prompt become control tokens; if not, they are text.
    template_arguments: further arguments of the chat template, such as {"enable_thinking": False}.
    """
    job = prepare(
        model, prompt, raw=raw, control_tokens=control_tokens, template_arguments=template_arguments, **settings
    )
    _warn(job)
    outputs = job.outputs()
    return outputs if as_prompts(prompt)[1] else outputs[0]


def _warn(job: DecodeJob) -> None:
    """Warn at the line that called `generate` or `stream`."""
    for note in job.plan.notes:
        warnings.warn(str(note), UserWarning, stacklevel=3)


def text_pieces(
    job: DecodeJob, events: Iterable[DecodeEvent], also: Callable[[DecodeEvent], object] = lambda event: None
) -> Iterator[str]:
    """The text of a single answer while its tokens become final, in pieces that join to `Output.text`.

    Text that may still change is delayed: an incomplete character, or the possible beginning of a stop string.
    also: called with every event, for a caller that needs both.
    """
    live = job.live_text()
    for event in events:
        also(event)
        if piece := live(event):
            yield piece
