"""AnswerRow: one prompt that is being answered: what is final, whether it has ended, and the events it has caused."""

from collections.abc import Generator, Iterable, Mapping, Sequence

from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.decoding.start import Start
from nbdiff_engine.model.block_model import Pass
from nbdiff_engine.token_choice.sampling import Prediction
from nbdiff_engine.trace.events import DecodeEvent, Denoise, Finish, FinishReason, Fixed, Pending, Prefill, Reason

# A strategy, for one row: it asks for passes, is sent what they predict, and returns why it ended.
# The loop runs many of these side by side, so a strategy never has to think of a batch.
Program = Generator[Pass, Prediction, FinishReason]
Reading = Generator[Pass, Prediction, Prediction]  # a part of one: its value is the last prediction


class AnswerRow:
    """The state of one answer. Strategies read `context`, `begin`, `output` and `plan`, and speak through `emit`.

    begin: where the answer begins; with an empty one, as always but in a fork, right behind the prompt.
    """

    def __init__(self, index: int, prompt: Sequence[int], plan: DecodePlan, begin: Start | None = None):
        self.index = index
        self.prompt = list(prompt)
        self.plan = plan
        self.begin = begin or Start()
        self.context = [*self.prompt, *self.begin.committed]  # to be read before anything is decoded
        self.output: list[int] = []  # settled: never changes again
        self._spoken: list[int] = []  # of these, what leaves a trace in the text
        self.time = 0.0  # engine time of the forward being answered
        self._events: list[DecodeEvent] = []
        self._limit = min(plan.settings.max_new_tokens, plan.context_length - len(self.prompt))
        self.ended = self.settle(self.begin.committed)  # why, where what is there already ends the answer

    @property
    def end(self) -> int:
        """Sequence position after the last settled token."""
        return len(self.prompt) + len(self.output)

    def settle(self, tokens: Iterable[int]) -> FinishReason | None:
        """Append final tokens until one of them ends the answer; why it ended, or None."""
        for token in tokens:
            self.output.append(token)
            if token not in self.plan.special_token_ids:
                self._spoken.append(token)
            if token in self.plan.eos_token_ids:
                return FinishReason.EOS
            if self.plan.settings.stop and self._has_stop_string():
                return FinishReason.STOP_STRING
            if len(self.output) >= self._limit:
                return FinishReason.LENGTH
        return None

    def _has_stop_string(self) -> bool:
        # A stop string of n bytes ends within the last n tokens that have text, each of which is at least a byte.
        longest = max(len(text.encode()) for text in self.plan.settings.stop)
        tail = self.plan.to_text(self._spoken[-longest - 4 :])
        return any(text in tail for text in self.plan.settings.stop)

    def read(self, stop: int, block_size: int = 1, first_block: int = 0, want_next: bool = True) -> Reading:
        """Prefill the context's first `stop` tokens, a chunk a forward; the prediction for what follows them.

        Causally, but for blocks of `block_size` from `first_block` on. Every chunk is an event, so that a caller
        can stop between any two.
        """
        predicted = Prediction([], [])
        passes = Pass.prefill(self.context[:first_block], 1, want_next and first_block == stop)
        passes += Pass.prefill(self.context[first_block:stop], block_size, want_next, first_block)
        for each in passes:
            predicted = yield each
            end = each.start + len(each.tokens)
            fixed = tuple(self.fixed(predicted, i, end - len(self.prompt), Reason.AR) for i in range(len(each.wanted)))
            self.emit(Prefill(self.index, self.time, end, fixed))
        return predicted

    def read_to_last_token(self) -> Generator[Pass, Prediction, int]:
        """For strategies that go token by token: read and settle all that is there but its last token, which is
        the value; where nothing is there, the answer's first token from AR logits. Sets `ended` where what is
        settled ends the answer, and then reads nothing."""
        *before, last = self.begin.leading or (None,)
        self.context += before
        self.ended = self.settle(before)
        if self.ended is not None:
            return last
        predicted = yield from self.read(len(self.context), want_next=last is None)
        return predicted.tokens[0] if last is None else last

    def fixed(self, prediction: Prediction, index: int, position: int, reason: Reason) -> Fixed:
        """Prediction `index` as a token fixed at an output position."""
        runners_up = prediction.runners_up[index] if prediction.runners_up else ()
        return Fixed(position, prediction.tokens[index], round(prediction.confidence[index], 6), reason, runners_up)

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
        """Write the chosen predictions into the block at sequence position `start`, and say so.

        masked: the indices into `block` that were predicted; chosen: indices into those, and why.
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
