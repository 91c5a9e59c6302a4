"""AnswerRow: one prompt while it is answered: its final tokens, whether it has ended, and its events."""

from collections.abc import Generator, Iterable, Mapping, Sequence

from nbdiff_engine.decoding.answer_text import AnswerText
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.decoding.start import Start
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.token_choice.penalties import PrefixCounts, Prefixes
from nbdiff_engine.token_choice.sampling import Prediction
from nbdiff_engine.trace.events import DecodeEvent, Denoise, Finish, FinishReason, Fixed, Pending, Prefill, Reason

# A strategy for one row: it yields passes, receives their predictions, and returns why the answer ended.
# The loop runs the programs of all rows together, so a strategy handles a single row and never a batch.
Program = Generator[Pass, Prediction, FinishReason]
Reading = Generator[Pass, Prediction, Prediction]  # a part of a program; returns the last prediction


class AnswerRow:
    """The state of one answer. Strategies read `context`, `begin`, `output` and `plan`, and report through `emit`.

    begin: the part of the answer that exists already. It is empty except in a fork: the answer then starts right after
    the prompt.
    """

    def __init__(self, index: int, prompt: Sequence[int], plan: DecodePlan, begin: Start | None = None):
        self.index = index
        self.prompt = list(prompt)
        self.plan = plan
        self.begin = begin or Start()
        self.context = [*self.prompt, *self.begin.committed]  # read before decoding starts
        self.output: list[int] = []  # final: never changes again
        # Only a stop string needs the text while it is decoded.
        self._text = AnswerText(plan.texts, plan.settings.stop) if plan.settings.stop else None
        self._counts = PrefixCounts(len(self.prompt))
        self.batch = 1  # rows that are decoded together
        self.reading = True  # whether the next pass reads a part of the context
        self.cached = 0  # first tokens of the context that the cache holds before the first pass
        self.shares_prefixes = True  # whether the keys of other answers are used for it, and its own for others
        self.chunk: int | None = None  # the most tokens of a pass that reads; None: PREFILL_CHUNK
        self.time = 0.0  # engine time of the last forward
        self._events: list[DecodeEvent] = []
        self.limit = plan.answer_limit(len(self.prompt))  # tokens of `output`
        self.ended = self.append_final(self.begin.committed)  # the reason, if the existing part already ends the answer

    @property
    def reach(self) -> int:
        """Tokens of the prompt and of the longest answer that it can have."""
        return len(self.prompt) + self.limit

    @property
    def end(self) -> int:
        """Sequence position after the last final token."""
        return len(self.prompt) + len(self.output)

    def append_final(self, tokens: Iterable[int]) -> FinishReason | None:
        """Append final tokens, up to the one that ends the answer; why the answer ended, or None."""
        for token in tokens:
            self.output.append(token)
            if self._text is not None:
                self._text.add(token)
            if token in self.plan.eos_token_ids:
                return FinishReason.EOS
            if token in self.plan.settings.stop_token_ids:
                return FinishReason.STOP_TOKEN
            if self._text is not None and self._text.cut is not None:
                return FinishReason.STOP_STRING
            if len(self.output) >= self.limit:
                return FinishReason.LENGTH
        return None

    def read(self, stop: int, block_size: int = 1, first_block: int = 0, want_next: bool = True) -> Reading:
        """Prefill the context's first `stop` tokens, one chunk per forward; the prediction for the next token.

        Tokens before `first_block` are read causally, later ones in whole blocks of `block_size`. Every chunk is an
        event, so that a caller can stop between two chunks. Tokens that the cache holds already are not read again.
        """
        predicted = Prediction([], [])
        # The prediction needs the last token's forward, and a block is read as a whole.
        known = min(self.cached, stop - 1 if want_next else stop)
        if known > first_block:
            known -= (known - first_block) % block_size
        self.cached = known = max(known, 0)
        passes = Pass.prefill(self.context[known:first_block], 1, want_next and first_block == stop, known, self.chunk)
        blocks_from = max(known, first_block)
        passes += Pass.prefill(self.context[blocks_from:stop], block_size, want_next, blocks_from, self.chunk)
        for each in passes:
            predicted = yield each
            end = each.start + len(each.tokens)
            fixed = tuple(self.fixed(predicted, i, end - len(self.prompt), Reason.AR) for i in range(len(each.wanted)))
            self.emit(Prefill(self.index, self.time, end, fixed))
        self.reading = False
        return predicted

    def read_to_last_token(self) -> Generator[Pass, Prediction, int]:
        """For strategies that decode token by token: read the prompt and the existing part of the answer except its
        last token, make the tokens read final, and return the last token. If there is no existing part, return the
        answer's first token, from AR logits. If a final token ends the answer, sets `ended` and reads nothing."""
        *before, last = self.begin.leading or (None,)
        self.context += before
        self.ended = self.append_final(before)
        if self.ended is not None:
            return last
        predicted = yield from self.read(len(self.context), want_next=last is None)
        return predicted.tokens[0] if last is None else last

    def fixed(self, prediction: Prediction, index: int, position: int, reason: Reason) -> Fixed:
        """Prediction `index` as a token fixed at an output position."""
        return Fixed(
            position,
            prediction.tokens[index],
            round(prediction.confidence[index], 6),
            reason,
            prediction.alternatives[index] if prediction.alternatives else (),
            prediction.logprobs[index] if prediction.logprobs else None,
        )

    def prefixes(self, each: Pass) -> list[Prefixes]:
        """The prefixes of the positions that a pass of this row predicts: what the penalties read. First those of its
        clean tokens, or of its noised block, then those of each group, whose tokens follow clean tokens."""
        counts = self._counts
        if counts.length > each.start:
            counts = PrefixCounts(len(self.prompt))
        answer = counts.length - len(self.prompt)
        counts.extend(self.prompt[counts.length : each.start])
        counts.extend(self.output[max(answer, 0) : max(each.start - len(self.prompt), 0)])
        self._counts = counts
        mask = None if self.plan.spec is None else self.plan.spec.mask_token_id
        tokens = [None if token == mask else token for token in each.tokens]
        found, stop = [], len(tokens) if not each.groups else each.clean
        found.append(Prefixes(counts, tokens[:stop], [at + self.plan.shift for at in each.wanted if at < stop]))
        for offset, count in each.groups:
            first, stop = stop, stop + count
            own = [offset + at - first + self.plan.shift for at in each.wanted if first <= at < stop]
            found.append(Prefixes(counts, tokens[:offset] + tokens[first:stop], own))
        return found

    def unmask(
        self,
        block: list[int],
        start: int,
        masked: Sequence[int],
        prediction: Prediction,
        chosen: Mapping[int, Reason],
        number: int,
        step: int,
    ) -> None:
        """Write the chosen predictions into the block at sequence position `start`, and emit the event.

        masked: the indices into `block` that were predicted; chosen: indices into `masked`, each with its reason.
        """
        first = start - len(self.prompt)
        for index in chosen:
            block[masked[index]] = prediction.tokens[index]
        fixed = [self.fixed(prediction, index, first + masked[index], why) for index, why in sorted(chosen.items())]
        pending = []
        if self.plan.settings.trace:
            pending = [
                Pending(first + at, prediction.tokens[index], round(prediction.confidence[index], 6))
                for index, at in enumerate(masked)
                if index not in chosen
            ]
        stop = first + len(block)
        self.emit(Denoise(self.index, self.time, number, step, first, stop, tuple(fixed), tuple(pending)))

    def emit(self, event: DecodeEvent) -> None:
        self._events.append(event)

    def finish(self, reason: FinishReason) -> None:
        self.emit(Finish(self.index, self.time, reason, tuple(self.output)))

    def drain(self) -> list[DecodeEvent]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events
