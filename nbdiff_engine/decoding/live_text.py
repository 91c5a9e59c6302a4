"""The text of one answer while its tokens become final, event by event."""

from bisect import bisect_left
from collections.abc import Sequence

from nbdiff_engine.decoding.answer_text import AnswerText
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.trace.events import DecodeEvent, Finish
from nbdiff_engine.trace.trace_file import Canvas


class LiveText:
    """The pieces that `add` returns join to `Output.text`; they are empty for a model without a tokenizer.

    Text that may still change is delayed: an incomplete character, or the possible beginning of a stop string.
    tokens: the final tokens of the answer so far, up to the one that ends it. over: whether that one is there. canvas:
    the answer after the last event.
    """

    def __init__(self, plan: DecodePlan, prompt_tokens: int, committed: Sequence[int] = ()):
        """committed: the part of the answer that existed before the first event."""
        self.tokens: list[int] = []
        self._plan = plan
        self._limit = plan.answer_limit(prompt_tokens)
        self._written = None if plan.texts is None else AnswerText(plan.texts, plan.settings.stop)
        self.canvas = Canvas(committed)
        self.over = False
        self._waiting, self._shown = "", 0  # _waiting: the text after `_shown` characters
        self._starts: list[int] = []  # the characters of the answer before each token
        self._ended = False

    @property
    def shown_tokens(self) -> int:
        """How many of `tokens` are in the text that `add` has returned, as a whole or with a part of their text."""
        if self._ended and (self._written is None or self._written.cut is None):
            return len(self.tokens)
        return bisect_left(self._starts, self._shown)

    def add(self, event: DecodeEvent) -> str:
        """Advance by one event of the row: the text that is certain now and was not before."""
        canvas, written = self.canvas, self._written
        canvas.apply(event)
        # A block may hold tokens after the one that ends the answer.
        while len(self.tokens) < min(canvas.final, self._limit) and not self.over:
            token = canvas.tokens[len(self.tokens)]
            self.tokens.append(token)
            self.over = token in self._plan.end_token_ids
            if written is not None:
                self._starts.append(written.length)
                self._waiting += written.add(token)
                self.over |= written.cut is not None
        self._ended = isinstance(event, Finish)
        if written is None:
            return ""
        if self._ended:
            self._waiting += written.end()
            certain = written.length if written.cut is None else written.cut
        else:
            certain = written.certain_length
        new = max(certain - self._shown, 0)
        piece, self._waiting = self._waiting[:new], self._waiting[new:]
        self._shown += new
        return piece
