"""Autoregressive decoding: the special case of block size 1, and the baseline of every comparison."""

from nbdiff_engine.block_model import Pass
from nbdiff_engine.decoding.row import Program, Row
from nbdiff_engine.events import Commit, Reason


def ar(row: Row) -> Program:
    """One token a forward: commit the last token, take the next from its logits."""
    predicted = yield from row.read_prompt(len(row.prompt))
    while (reason := row.settle(predicted.tokens)) is None:
        position = len(row.output)
        predicted = yield Pass.commit(row.output[-1:], row.end - 1)
        following = row.fixed(predicted, 0, position, Reason.AR)
        row.emit(Commit(row.index, row.time, position - 1, position - 1, position, (following,)))
    return reason
