"""The decoding loop: all rows share each forward; yields events.

Each row runs its own strategy, which handles a single row. The loop collects the next pass of every row, runs all
passes as one forward, even if they are of different phases, sends each row its predictions, and removes finished
rows. A row that reads a long part of its prompt has a forward of its own (`model.passes.shared_forwards`), so that the
other rows are not padded to its width.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from nbdiff_engine.decoding.ar import ar
from nbdiff_engine.decoding.block_diffusion import block_diffusion
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.decoding.row import AnswerRow, Program
from nbdiff_engine.decoding.self_speculative import self_speculative
from nbdiff_engine.decoding.start import Start
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.kv_cache import CacheMaker, SlotCache
from nbdiff_engine.model.passes import PREFILL_CHUNK, Pass
from nbdiff_engine.token_choice.penalties import Prefixes
from nbdiff_engine.token_choice.sampling import Prediction
from nbdiff_engine.trace.events import DecodeEvent

PROGRAMS: dict[str, Callable[[AnswerRow], Program]] = {
    "ar": ar,
    "block_diffusion": block_diffusion,
    "self_speculative": self_speculative,
}


class Clock:
    """Seconds of engine work: the clock is paused while the reader of an event works."""

    def __init__(self) -> None:
        self._worked = 0.0
        self._since: float | None = time.perf_counter()

    def now(self) -> float:
        return self._worked + (0.0 if self._since is None else time.perf_counter() - self._since)

    def pause(self) -> None:
        self._worked, self._since = self.now(), None

    def resume(self) -> None:
        self._since = time.perf_counter()


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
    clock = Clock()
    rows = [AnswerRow(index, prompt, plan, begin) for index, prompt in enumerate(prompts)]
    # Rows of similar length lie beside each other, so that they share the forwards of a prefill.
    rows.sort(key=lambda row: len(row.context))
    # Room for two more blocks, as the last block is decoded as a whole, and for padding to a common width.
    widest = max(plan.settings.block_size, len(begin.block) if begin else 0)
    room = max(map(_reach, rows)) + 2 * widest + PREFILL_CHUNK
    live: list[tuple[AnswerRow, Program]] = []
    passes: list[Pass] = []
    for row in rows:
        row.batch = len(rows)
        program = PROGRAMS[plan.settings.strategy](row)
        try:
            if row.ended is None:
                passes.append(next(program))
                live.append((row, program))
        except StopIteration as stop:
            row.ended = stop.value
        if row.ended is not None:  # the existing part already ends the answer
            row.finish(row.ended)
            yield from row.drain()
    if not live:
        return
    session = model.open(len(live), room, cache, [_reach(row) for row, _ in live])
    session.noise_seed = plan.settings.seed
    while live:
        begun = clock.now()
        logits = session.run(passes)
        predictions = _predict(plan, logits, [row for row, _ in live], passes, clock)
        if plan.times is not None and len(passes) == 1:
            plan.times.observe(len(passes[0].tokens), clock.now() - begun)
        asked: list[Pass] = []
        kept: list[int] = []
        now = clock.now()
        for slot, ((row, program), prediction) in enumerate(zip(live, predictions, strict=True)):
            row.time = now
            try:
                asked.append(program.send(prediction))
                kept.append(slot)
            except StopIteration as stop:
                row.finish(stop.value)
        clock.pause()
        for row in sorted((row for row, _ in live), key=lambda row: row.index):
            yield from row.drain()
        clock.resume()
        if kept and len(kept) < len(live):
            session.select(kept)
        live, passes = [live[slot] for slot in kept], asked


def _reach(row: AnswerRow) -> int:
    """Tokens of the row's prompt and of the longest answer that it can have."""
    return len(row.prompt) + row.limit


def _predict(
    plan: DecodePlan, logits, rows: Sequence[AnswerRow], passes: Sequence[Pass], clock: Clock
) -> list[Prediction]:
    """Each row's predictions, computed for the whole batch at once.

    The clock is paused while the alternatives for the trace are computed: they are not part of decoding.
    """
    owners = [row.index for row, each in zip(rows, passes) for _ in each.wanted]
    positions = [
        each.start + offsets[index] + plan.shift - len(row.prompt)
        for row, each, offsets in zip(rows, passes, (each.offsets for each in passes))
        for index in each.wanted
    ]
    prefixes: list[Prefixes] = []
    if plan.sampler.penalties.read_prefixes:
        prefixes = [part for row, each in zip(rows, passes) if each.wanted for part in row.prefixes(each)]
    needs = () if plan.policy is None else plan.policy.needs
    candidates = plan.settings.draft_candidates or 0
    drafting: list[int] = []
    if candidates:
        drafts = (index >= each.first_noise for each in passes for index in each.wanted)
        drafting = [at for at, is_draft in enumerate(drafts) if is_draft]
    whole = plan.sampler.predict(logits, owners, positions, needs, prefixes, candidates, drafting)
    if plan.settings.trace:
        clock.pause()
        whole = replace(whole, alternatives=plan.sampler.alternatives(logits, whole))
        clock.resume()
    ends = [0]
    for each in passes:
        ends.append(ends[-1] + len(each.wanted))
    return [whole.part(first, last) for first, last in pairwise(ends)]
