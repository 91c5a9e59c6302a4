"""The answers of one model under several settings, on the same prompts; used by an evaluation and the page's sweep.

Each batch of prompts is decoded under every setting before the next batch, so that other load on the machine slows all
settings equally. The setting that comes first changes with each batch.
"""

import contextlib
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import SettingError
from nbdiff_engine.generate import Output, prepare
from nbdiff_engine.memory_errors import is_out_of_memory
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.trace.events import DecodeEvent


@dataclass(frozen=True, slots=True)
class DecodeProgress:
    """The progress of the decoding. A caller that closes the generator stops the decoding within one forward.

    setting, batch: indices. events: the number of decode events so far, of this batch under this setting.
    """

    setting: int
    batch: int
    events: int
    warm_up: bool = False


@dataclass(frozen=True, slots=True)
class BatchAnswers:
    """A finished batch under one setting. setting, batch: indices; outputs: in the order of the batch's prompts."""

    setting: int
    batch: int
    outputs: tuple[Output, ...]


def answers_in_turn(
    model: BlockModel,
    settings: Sequence[DecodeSettings],
    batches: Sequence[Sequence[Sequence[int]]],
    *,
    done: Collection[tuple[int, int]] = (),
    warm_up_tokens: int | None = None,
) -> Generator[DecodeProgress | BatchAnswers, None, None]:
    """Decode every batch under every setting.

    batches: prompts as token ids; a batch of one prompt measures the time that one reader waits.
    done: (setting, batch) pairs to leave out. warm_up_tokens: the length of the warm-up answer; None: the setting's own
    length. Each setting with batches left first decodes the first batch as a warm-up, so that no measured answer
    contains one-time costs.

    The settings must have been checked for this model by `prepare`. Raises SettingError for a batch that does not
    fit into the memory.
    """
    for setting, asked in enumerate(settings):
        if all((setting, batch) in done for batch in range(len(batches))):
            continue
        if warm_up_tokens is not None:
            asked = asked.model_copy(update={"max_new_tokens": warm_up_tokens})
        yield from _progress(decode_batch(model, batches[0], asked), setting, 0, warm_up=True)
    for batch, prompts in enumerate(batches):
        for turn in range(len(settings)):
            setting = (batch + turn) % len(settings)
            if (setting, batch) in done:
                continue
            outputs = yield from _progress(decode_batch(model, prompts, settings[setting]), setting, batch)
            yield BatchAnswers(setting, batch, tuple(outputs))


def decode_batch(
    model: BlockModel, prompts: Sequence[Sequence[int]], settings: DecodeSettings
) -> Generator[DecodeEvent, None, list[Output]]:
    """Decode prompts in one batch: yields the events, returns the outputs in the order of the prompts."""
    encoded = [list(prompt) for prompt in prompts]
    asked = settings.model_dump(exclude_unset=True)
    with _memory_said(len(encoded), model.name):
        job = prepare(model, encoded[0] if len(encoded) == 1 else encoded, **asked)
        events: list[list[DecodeEvent]] = [[] for _ in encoded]
        with closing(job.events()) as stream:
            for event in stream:
                events[event.row].append(event)
                yield event
    return [job.output(row, own) for row, own in enumerate(events)]


def _progress(
    decoding: Generator[DecodeEvent, None, list[Output]], setting: int, batch: int, warm_up: bool = False
) -> Generator[DecodeProgress, None, list[Output]]:
    """The events of a batch as DecodeProgress; returns its outputs. Closing it closes the decoding."""
    count = 0
    with closing(decoding):
        while True:
            yield DecodeProgress(setting, batch, count, warm_up)
            try:
                next(decoding)
            except StopIteration as end:
                return end.value
            count += 1


@contextlib.contextmanager
def _memory_said(rows: int, name: str) -> Iterator[None]:
    """Turn torch's errors about too little memory into a SettingError with one sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        what = "one prompt" if rows == 1 else f"{rows} prompts side by side"
        less = "a smaller max_new_tokens" if rows == 1 else "a smaller batch size"
        raise SettingError(f"The memory is too small for {what} with {name}; take {less}.") from error
