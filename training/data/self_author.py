"""The base as the author of documents: prompts with its answers, or the user's turn and the answer, sampled by AR.

Only answers are turns of a document, so prompts are neither noised nor scored. Without a chat template and without
prompts, a document is plain text.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from math import floor
from typing import Any

from torch import Tensor

from nbdiff_engine.decoding.loop import decode
from nbdiff_engine.decoding.prompts import Prompt, encode
from nbdiff_engine.errors import PromptError
from nbdiff_engine.generate import prepare
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.token_choice.sampling import Prediction, Sampler
from nbdiff_engine.trace.events import DecodeEvent, Finish
from training.data.bad_rows import BadRows
from training.data.conversations import Conversation
from training.data.data_settings import DataSettings
from training.data.documents import Document
from training.data.given_prompts import read_prompts
from training.errors import DataError

_RUN = 32  # documents in a row with one temperature, as many as a batch has
_TWO_CONTENTS = ("Hello", "42")  # two user turns with different first and different last tokens


@dataclass(frozen=True, slots=True)
class DocumentSampler(Sampler):
    """A Sampler whose noise depends on the document, not on its row in a batch. numbers: the document of each row."""

    numbers: tuple[int, ...] = ()

    def predict(self, logits_NV: Tensor, rows: Sequence[int], *others: Any, **named: Any) -> Prediction:
        """As in Sampler, with the number of a row's document instead of the row."""
        return Sampler.predict(self, logits_NV, [self.numbers[row] for row in rows], *others, **named)


@dataclass(frozen=True, slots=True)
class Author:
    """The base, with everything it needs to write documents.

    prompts: token ids, used in turn; empty if documents begin with `opening`.
    between: the tokens between the EOS of a user's turn and the answer. None if the template has no EOS there, so the
    model writes both in one decode.
    ending: then, the tokens before the answer, by which it is found; empty without a chat template.
    """

    model: BlockModel
    settings: DataSettings
    prompts: Sequence[list[int]]
    opening: list[int]
    between: list[int] | None
    ending: list[int]

    @classmethod
    def of(cls, model: BlockModel, settings: DataSettings) -> "Author":
        """Encode the prompts. Raises DataError, with the place of the prompt, if the model cannot read too many."""
        prompts, given = [], read_prompts(settings)
        bad = BadRows(f"the prompts of {settings.self_data.prompts}", settings.bad_rows)
        for where, prompt in given:
            try:
                prompts.append(_encode(model, prompt, settings))
            except PromptError as error:
                bad.add(f"{where} cannot be used. {error}")
        bad.check(len(given))
        opening, between, ending = ([], None, []) if prompts else _opening(model, settings)
        return cls(model, settings, prompts, opening, between, ending)

    def documents(self, numbers: Sequence[int], tick: Callable[[DecodeEvent], object]) -> list[Document | None]:
        """Write the documents with these numbers in one batch. tick: called with every event.

        None: the model wrote no answer.
        """
        seed = self.settings.seed
        usual = self.settings.self_data.temperature
        if self.prompts:
            return [
                document
                for greedy, run in groupby(numbers, self._is_greedy)
                for document in self._answers(list(run), 0.0 if greedy else usual, tick)
            ]
        sequences = self._continuations([self.opening] * len(numbers), numbers, seed, usual, tick)
        if self.between is None and not self.ending:
            return [Document(tuple(sequence), None) for sequence in sequences]
        if self.between is None:
            return [self._answered(sequence, self._start_of_answer(sequence)) for sequence in sequences]
        complete = [index for index, sequence in enumerate(sequences) if self._is_question(sequence)]
        # Another seed than the question: equal noise would make the first tokens of both correlated.
        answer_seed = random.Random(f"{seed}/answer").getrandbits(62)
        prompts = [sequences[index] + self.between for index in complete]
        answered = self._continuations(prompts, [numbers[index] for index in complete], answer_seed, usual, tick)
        found: list[Document | None] = [None] * len(numbers)
        for index, prompt, sequence in zip(complete, prompts, answered, strict=True):
            found[index] = self._answered(sequence, len(prompt))
        return found

    def _is_greedy(self, number: int) -> bool:
        """Whether a document is written greedily: whole runs of numbers are, so that a batch has one temperature."""
        share, run = self.settings.self_data.greedy, number // _RUN
        return floor((run + 1) * share) > floor(run * share)

    def _answers(
        self, numbers: list[int], temperature: float, tick: Callable[[DecodeEvent], object]
    ) -> list[Document | None]:
        """Answers to the prompts of these documents."""
        prompts = [self.prompts[number % len(self.prompts)] for number in numbers]
        sequences = self._continuations(prompts, numbers, self.settings.seed, temperature, tick)
        return [self._answered(sequence, len(prompt)) for prompt, sequence in zip(prompts, sequences, strict=True)]

    def _answered(self, sequence: list[int], start: int | None) -> Document | None:
        """A document whose answer begins at `start`; None if it has no token beside an EOS."""
        if start is None or all(token in self.model.eos_token_ids for token in sequence[start:]):
            return None
        return Document(tuple(sequence), ((start, len(sequence)),))

    def _start_of_answer(self, sequence: list[int]) -> int | None:
        """Where the answer begins in a text of both turns; None if the user's turn is empty or has no end."""
        size = len(self.ending)
        places = range(len(self.opening) + 1, len(sequence) - size + 1)
        return next((place + size for place in places if sequence[place : place + size] == self.ending), None)

    def _is_question(self, sequence: list[int]) -> bool:
        """Whether a user's turn is complete and leaves room for an answer."""
        written = len(sequence) - len(self.opening)
        return written > 1 and sequence[-1] in self.model.eos_token_ids and self._has_room(sequence)

    def _has_room(self, question: list[int]) -> bool:
        return len(question) + len(self.between) < self.model.context_length

    def _continuations(
        self,
        prompts: list[list[int]],
        numbers: Sequence[int],
        seed: int,
        temperature: float,
        tick: Callable[[DecodeEvent], object],
    ) -> list[list[int]]:
        """Each prompt followed by the tokens that the model writes after it, including its EOS if there is one."""
        if not prompts:
            return []
        sampling = self.settings.self_data
        job = prepare(
            self.model,
            prompts,
            strategy="ar",
            temperature=temperature,
            max_new_tokens=sampling.max_new_tokens,
            seed=seed,
            trace=False,
        )
        sampler = DocumentSampler(
            temperature=temperature, seed=seed, forbidden=job.plan.sampler.forbidden, numbers=tuple(numbers)
        )
        sequences = [list(prompt) for prompt in job.prompts]
        for event in decode(self.model, job.prompts, replace(job.plan, sampler=sampler)):
            tick(event)
            if isinstance(event, Finish):
                sequences[event.row].extend(event.token_ids)
        return sequences


def _encode(model: BlockModel, prompt: str | Conversation, settings: DataSettings) -> list[int]:
    """The ids of a prompt. Raises PromptError."""
    arguments = dict(settings.template_arguments)
    given: Prompt = prompt
    if isinstance(prompt, Conversation):
        given = prompt.messages
        arguments |= {"tools": prompt.tools} if prompt.tools else {}
    return encode(
        model, given, settings.raw, control_tokens=settings.control_tokens, template_arguments=arguments or None
    )[1]


def _opening(model: BlockModel, settings: DataSettings) -> tuple[list[int], list[int] | None, list[int]]:
    """The tokens with which a document without a prompt begins, `Author.between` and `Author.ending`.

    With a chat template: the common start of the prompts for two different user turns, and their common end.
    """
    tokenizer = model.tokenizer
    if tokenizer.chat_template and not settings.raw:
        try:
            one, other = (_encode(model, content, settings) for content in _TWO_CONTENTS)
        except PromptError as error:
            raise DataError(f"{model.name} cannot write prompts. {error}") from error
        opening = _common_start(one, other)
        ending = _common_start(one[::-1], other[::-1])[::-1]
        place = next((place for place, token in enumerate(ending) if token in model.eos_token_ids), None)
        if opening and ending:
            return opening, None if place is None else ending[place + 1 :], ending if place is None else []
    starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, *sorted(model.eos_token_ids))
    start = next((token for token in starts if token is not None), None)
    if start is None:
        raise DataError(
            f"{model.name} has neither a BOS nor an EOS that could begin a document; give self_data.prompts."
        )
    return [start], None, []


def _common_start(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other))]
