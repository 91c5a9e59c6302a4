"""Forks: a person changes a trace at one of its steps, and decoding continues from there.

Later blocks attended to the old token, so they are dropped. The other tokens of the same block are kept: a token that
is fixed stays fixed while its block is denoised. But if no masked position is left in the block, the tokens after the
first change are masked again. AR and self-speculation continue after the last change and drop all later tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from nbdiff_engine.decoding.start import Start
from nbdiff_engine.errors import SettingError
from nbdiff_engine.generate import DecodeJob
from nbdiff_engine.trace.events import Commit, DecodeEvent, Denoise, Edit, Finish, Verify
from nbdiff_engine.trace.trace_file import Canvas, Trace


@dataclass(frozen=True, slots=True)
class _Block:
    """A block: its output positions [start, stop), negative for prompt tokens; its number; its passes so far if it is
    not finished."""

    start: int
    stop: int
    number: int
    passes: Sequence[Denoise] = ()


def fork(trace: Trace, after: int, changes: Mapping[int, int | None]) -> tuple[Edit, Start]:
    """Change a trace after its first `after` events: the change as an event, and the Start for decoding.

    changes: output position to its new token id, or to None to mask it again. They must be in one block, or continue
    directly after it. If empty, the fork continues without a change, for other settings.
    Raises SettingError with one sentence. `prepare`, which has the model, checks the token ids and masks.
    """
    events = [event for event in trace.events[:after] if not isinstance(event, Finish)]
    canvas = Canvas()
    for event in events:
        canvas.apply(event)
    for position in changes:
        if not 0 <= position < len(canvas.tokens) + len(changes):
            raise SettingError(
                f"Position {position} is not on the canvas, which holds {len(canvas.tokens)} tokens at this step."
            )
    if trace.settings.get("strategy") in ("ar", "self_speculative"):
        begin = _behind_last_change(trace.settings["strategy"], events, canvas, changes)
    else:
        begin = _within_block(events, canvas, changes, trace.settings.get("sub_block_size"))
    start = len(begin.committed)
    if None in begin.committed:
        raise SettingError(f"A token before position {start} is still masked; change tokens of that block first.")
    time = events[-1].time if events else 0.0
    return Edit(0, time, start, begin.block, tuple(sorted(changes))), begin


def continued(events: Sequence[DecodeEvent], edit: Edit, job: DecodeJob) -> Iterator[DecodeEvent]:
    """The earlier events, the edit, and the events that the job decodes after it; times continue from the edit."""
    yield from (event for event in events if not isinstance(event, Finish))
    yield edit
    with closing(job.events()) as fresh:
        for event in fresh:
            yield replace(event, time=edit.time + event.time)


def _behind_last_change(
    strategy: str, events: Sequence[DecodeEvent], canvas: Canvas, changes: Mapping[int, int | None]
) -> Start:
    start = min(changes, default=canvas.committed)
    stop = max(changes) + 1 if changes else start + 1
    tokens = _changed(canvas.tokens[start:stop], start, changes)
    number = start + max(len(tokens) - 1, 0)  # AR: a block is one token, and its number is its position
    if strategy == "self_speculative":
        number = sum(end <= start for _, end in _committed_blocks(events))
    return Start(committed=tuple(canvas.tokens[:start]), block=tuple(tokens), number=number)


def _within_block(
    events: Sequence[DecodeEvent], canvas: Canvas, changes: Mapping[int, int | None], sub_block_size: int | None
) -> Start:
    block = _block_at(events, canvas, min(changes, default=canvas.committed))
    start = max(block.start, 0)
    tokens = _changed(canvas.tokens[start : block.stop], start, changes)
    if changes and None not in tokens:
        for index in range(min(changes) + 1 - start, len(tokens)):
            if start + index not in changes:
                tokens[index] = None
    sub_block_step = 0
    if None in tokens:
        size = sub_block_size or block.stop - block.start
        in_work = (start + tokens.index(None) - block.start) // size
        sub_block_step = sum(
            any((each.position - block.start) // size == in_work for each in event.fixed) for event in block.passes
        )
    return Start(
        committed=tuple(canvas.tokens[:start]),
        block=tuple(tokens),
        number=block.number,
        step=block.passes[-1].step + 1 if block.passes else 0,
        sub_block_step=sub_block_step,
    )


def _block_at(events: Sequence[DecodeEvent], canvas: Canvas, position: int) -> _Block:
    committed = _committed_blocks(events)
    for number, (start, stop) in enumerate(committed):
        if start <= position < stop:
            return _Block(start, stop, number)
    passes: list[Denoise] = []  # of the unfinished block
    for event in events:
        if isinstance(event, Denoise):
            passes.append(event)
        elif isinstance(event, Commit | Edit):
            passes = []
    start, stop = (passes[-1].start, passes[-1].stop) if passes else (canvas.committed, len(canvas.tokens))
    return _Block(start, stop, len(committed), passes)


def _committed_blocks(events: Sequence[DecodeEvent]) -> list[tuple[int, int]]:
    """[start, stop) of the blocks that are context, without those that an edit has dropped."""
    blocks: list[tuple[int, int]] = []
    for event in events:
        if isinstance(event, Commit):
            blocks.append((event.start, event.stop))
        elif isinstance(event, Verify):
            blocks.append((event.start, event.start + 1 + event.accepted))
        elif isinstance(event, Edit):
            blocks = [block for block in blocks if block[1] <= event.start]
    return blocks


def _changed(tokens: list[int | None], start: int, changes: Mapping[int, int | None]) -> list[int | None]:
    tokens = list(tokens)
    for position in sorted(changes):
        index = position - start
        if index > len(tokens):
            raise SettingError(
                f"Positions {min(changes)} and {position} are not of one block; change tokens of one block at a time."
            )
        tokens[index : index + 1] = [changes[position]]
    return tokens
