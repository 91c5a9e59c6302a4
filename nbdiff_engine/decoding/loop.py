"""The decoding loop: answers a list of prompts in one running batch; yields events."""

from collections.abc import Iterator, Sequence

from nbdiff_engine.decoding.batch import RunningBatch
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.decoding.row import AnswerRow
from nbdiff_engine.decoding.start import Start
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.kv_cache import CacheMaker, SlotCache
from nbdiff_engine.trace.events import DecodeEvent


def decode(
    model: BlockModel,
    prompts: Sequence[Sequence[int]],
    plan: DecodePlan,
    cache: CacheMaker = SlotCache,
    begin: Start | None = None,
) -> Iterator[DecodeEvent]:
    """Answer prompts (token ids) in one batch; the events of all rows, in the order in which they happen.

    cache: creates the KV cache of the rows.
    begin: the part of an answer that exists already, the same for all rows; checked by `check_start`.

    Closing the iterator stops before the next forward and frees the cache; the model is ready for another call.
    """
    batch = RunningBatch(model, cache)
    rows = [AnswerRow(index, prompt, plan, begin) for index, prompt in enumerate(prompts)]
    # Rows of similar length lie beside each other, so that they share the forwards of a prefill.
    rows.sort(key=lambda row: len(row.context))
    for row in rows:
        row.batch = len(rows)
        batch.join(row)
        if row.ended is not None:  # the existing part already ends the answer
            yield from row.drain()
    while rows := batch.rows:
        batch.tick()
        batch.clock.pause()
        for row in sorted(rows, key=lambda row: row.index):
            yield from row.drain()
        batch.clock.resume()
