"""A running batch: rows join it and leave it between two forwards, each with its own settings.

Each row runs its own strategy, which handles a single row. A tick collects the next pass of every row, runs all passes
as one forward, even if they are of different phases, sends each row its predictions, and removes finished rows. A row
that reads a long part of its prompt has a separate forward (`model.passes.shared_forwards`), so that the other rows
are not padded to its width; with `prefill_tokens`, a tick reads at most so many tokens of prompts, so that a row that
decodes never waits for a whole prompt of another row.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from torch import Tensor

from nbdiff_engine.decoding.ar import ar
from nbdiff_engine.decoding.block_diffusion import block_diffusion
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.decoding.prefix_cache import Found, PrefixCache
from nbdiff_engine.decoding.row import AnswerRow, Program
from nbdiff_engine.decoding.self_speculative import self_speculative
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.kv_cache import CacheMaker, SlotCache
from nbdiff_engine.model.passes import PREFILL_CHUNK, SHARED_WIDTH, Pass
from nbdiff_engine.model.session import Session
from nbdiff_engine.token_choice.penalties import Prefixes
from nbdiff_engine.token_choice.sampling import Prediction, Sampler

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


@dataclass(slots=True, eq=False)
class _Seat:
    """A row of the batch. asked: its next pass. last: the pass that ran before. joined: the clock then."""

    row: AnswerRow
    program: Program
    asked: Pass
    joined: float
    stored: Found | None = None
    last: Pass | None = None


class RunningBatch:
    """Rows that share each forward. The seats of rows that leave are used by the next ones.

    Not thread-safe: one thread calls its methods. Between two ticks all events of a row are in `row.drain()`.
    """

    def __init__(
        self,
        model: BlockModel,
        cache: CacheMaker = SlotCache,
        prefill_tokens: int | None = None,
        prefixes: PrefixCache | None = None,
    ):
        """cache: creates the KV cache; rows can join a batch that runs only with a SlotCache.

        prefill_tokens: the most tokens of long prompts that a tick reads, at least SHARED_WIDTH; None: every row reads
        a chunk. prefixes: stores the keys and values of finished rows, and provides those of known prefixes.
        """
        self.model = model
        self.clock = Clock()
        self._make_cache = cache
        self._prefill_tokens = None if prefill_tokens is None else max(prefill_tokens, SHARED_WIDTH)
        self.prefixes = prefixes
        self._session: Session | None = None
        self._seats: list[_Seat] = []  # the rows of the session, in its order
        self._new: list[_Seat] = []

    @property
    def rows(self) -> list[AnswerRow]:
        return [seat.row for seat in (*self._seats, *self._new)]

    @property
    def held_bytes(self) -> int:
        """Bytes of the buffers with the keys and values of its rows; 0 if it has none."""
        return 0 if self._session is None else self._session.cache.held_bytes

    def room(self, rows: Sequence[AnswerRow]) -> int:
        """Positions that a session of these rows needs: two more blocks than the longest, as the last block is decoded
        as a whole, and padding to a common width."""
        widest = max(max(row.plan.settings.block_size, len(row.begin.block)) for row in rows)
        return max(row.reach for row in rows) + 2 * widest + PREFILL_CHUNK

    def join(self, row: AnswerRow) -> None:
        """Let a row take part from the next tick on. A row whose existing part already ends the answer is finished at
        once, and has no tick."""
        stored = None
        row.chunk = self._prefill_tokens
        if self.prefixes is not None and row.shares_prefixes and row.ended is None:
            stored = self.prefixes.find(row.context, self._layout(row))
            row.cached = 0 if stored is None else stored.tokens
        program = PROGRAMS[row.plan.settings.strategy](row)
        try:
            if row.ended is None:
                asked = next(program)
                self._new.append(_Seat(row, program, asked, self.clock.now(), stored if row.cached else None))
        except StopIteration as stop:
            row.ended = stop.value
        if row.ended is not None:
            row.finish(row.ended)

    def leave(self, row: AnswerRow) -> None:
        """Remove a row that has not finished; its events so far stay in `row.drain()`."""
        self._new = [seat for seat in self._new if seat.row is not row]
        self._keep([seat for seat in self._seats if seat.row is not row])

    def tick(self) -> None:
        """One forward of the batch. At least one row must have joined and not finished."""
        self._open()
        seats = [seat for seat, runs in zip(self._seats, self._turns()) if runs]
        begun = self.clock.now()
        asked = {id(seat) for seat in seats}
        passes = [seat.asked if id(seat) in asked else Pass.nothing(seat.asked.start) for seat in self._seats]
        logits = self._session.run(passes)
        predictions = self._predict(logits, seats)
        now = self.clock.now()
        times = seats[0].row.plan.times
        if times is not None and len(seats) == 1:
            times.observe(len(seats[0].asked.tokens), now - begun, seats[0].asked.has_noise)
        finished = set()
        for seat, prediction in zip(seats, predictions, strict=True):
            seat.row.time, seat.last = now - seat.joined, seat.asked
            try:
                seat.asked = seat.program.send(prediction)
            except StopIteration as stop:
                seat.row.finish(stop.value)
                finished.add(id(seat))
        if finished:
            self._keep([seat for seat in self._seats if id(seat) not in finished])
        self._sort()

    # -- seats --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Give the rows that have joined a place in the session, and the context that is known of them."""
        if not self._new:
            return
        room, reaches = self.room(self.rows), [seat.row.reach for seat in self._new]
        if self._session is None:
            self._session = self.model.open(len(self._new), room, self._make_cache, reaches)
        else:
            self._session.add(reaches, room)
        first = len(self._seats)
        self._seats += self._new
        self._new = []
        for slot, seat in enumerate(self._seats[first:], start=first):
            self._session.noise_seeds[slot] = seat.row.plan.settings.seed
            if seat.stored is not None:
                self._session.paste(slot, seat.stored.context, seat.row.cached)
                seat.stored = None

    def _turns(self) -> list[bool]:
        """Which rows take part in this tick: all but those whose part of a prompt is too much for it. The first row
        that reads is always one of them."""
        left, turns = self._prefill_tokens, []
        for seat in self._seats:
            width = len(seat.asked.tokens)
            runs = True
            if left is not None and seat.row.reading and width > SHARED_WIDTH:
                runs = left == self._prefill_tokens or width <= left
                left -= width if runs else 0
            turns.append(runs)
        return turns

    def _keep(self, seats: list[_Seat]) -> None:
        """Close the seats of all other rows."""
        if len(seats) == len(self._seats):
            return
        kept = {id(seat) for seat in seats}
        if self.prefixes is not None:
            for slot, seat in enumerate(self._seats):
                if id(seat) not in kept and seat.row.shares_prefixes:
                    self._remember(slot, seat)
        if seats:
            self._session.select([slot for slot, seat in enumerate(self._seats) if id(seat) in kept])
        else:
            self._session = None
        self._seats = seats

    def _sort(self) -> None:
        """Rows that decode share a forward only if they lie beside each other: they are put before those that read."""
        if self._prefill_tokens is None:
            return
        seats = self._seats
        reading = next((slot for slot, seat in enumerate(seats) if seat.row.reading), len(seats))
        for slot in range(reading + 1, len(seats)):
            if not seats[slot].row.reading:
                self._session.swap(reading, slot)
                seats[reading], seats[slot] = seats[slot], seats[reading]
                reading += 1

    # -- what is known of a prompt --------------------------------------------------------------------------

    def _layout(self, row: AnswerRow) -> tuple[int, int]:
        """What the keys of a row depend on beside its tokens: the blocks that it reads as wholes, and its RoPE."""
        spec = row.plan.spec
        in_blocks = spec is not None and spec.context == "block_causal" and spec.block_grid == "absolute"
        return row.plan.settings.block_size if in_blocks else 1, self.model.position_offset(row.reach)

    def _remember(self, slot: int, seat: _Seat) -> None:
        """Keep the committed keys and values of a row that leaves. All tokens before its last pass are final; of the
        tokens of that pass, those that became final and were read."""
        row, last = seat.row, seat.last
        if last is None:
            return
        spec, tokens = row.plan.spec, [*row.prompt, *row.output]
        right = takewhile(lambda pair: pair[0] == pair[1], zip(last.tokens[: last.kept], tokens[last.start :]))
        count = last.start + sum(1 for _ in right)
        if spec is not None and spec.context == "block_causal" and spec.block_grid == "prompt_end":
            count = min(count, len(row.prompt))  # an answer is read in blocks, and the next prompt causally
        block = self._layout(row)[0]
        count -= count % block
        self.prefixes.store(tokens[:count], self._layout(row), lambda: self._session.copy(slot, count))

    # -- predictions ----------------------------------------------------------------------------------------

    def _predict(self, logits: Tensor, seats: Sequence[_Seat]) -> list[Prediction]:
        """The predictions of each row, computed at once for all rows with the same sampling."""
        ends = [0]
        for seat in seats:
            ends.append(ends[-1] + len(seat.asked.wanted))
        groups: dict[object, list[int]] = {}
        for number, seat in enumerate(seats):
            groups.setdefault(_sampling(seat.row.plan), []).append(number)
        found: list[Prediction | None] = [None] * len(seats)
        for numbers in groups.values():
            own = logits
            if len(groups) > 1:
                own = logits[[at for number in numbers for at in range(ends[number], ends[number + 1])]]
            whole = predict(
                [seats[number].row for number in numbers], [seats[n].asked for n in numbers], own, self.clock
            )
            first = 0
            for number in numbers:
                last = first + len(seats[number].asked.wanted)
                found[number] = whole.part(first, last)
                first = last
        return found


def _sampling(plan: DecodePlan) -> tuple[object, ...]:
    """What rows must share to be predicted together: all but their seeds, which only choose the noise."""
    sampler: Sampler = replace(plan.sampler, seed=0)
    needs = () if plan.policy is None else plan.policy.needs
    return sampler, needs, plan.settings.draft_candidates or 0, plan.settings.trace


def predict(rows: Sequence[AnswerRow], passes: Sequence[Pass], logits: Tensor, clock: Clock) -> Prediction:
    """The predictions of rows that share their sampling, but for the seeds, one after another.

    The clock is paused while the alternatives for the trace are computed: they are not part of decoding.
    """
    plan = rows[0].plan
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
    seeds = [row.plan.settings.seed for row, each in zip(rows, passes) for _ in each.wanted]
    whole = plan.sampler.predict(logits, owners, positions, needs, prefixes, candidates, drafting, seeds)
    if plan.settings.trace:
        clock.pause()
        whole = replace(whole, alternatives=plan.sampler.alternatives(logits, whole))
        clock.resume()
    return whole
