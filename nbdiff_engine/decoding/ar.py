"""Autoregressive decoding: the baseline, with the same engine and the same cache."""

from nbdiff_engine.decoding.row import AnswerRow, Program
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.trace.events import Commit, Reason


def ar(row: AnswerRow) -> Program:
    """One token per forward: commit the last token and take the next token from its logits."""
    opening = yield from row.read_to_last_token()
    number = row.begin.number
    while (reason := row.ended or row.append_final([opening])) is None:
        position = len(row.output)
        predicted = yield Pass.commit([opening], row.end - 1)
        following = row.fixed(predicted, 0, position, Reason.AR)
        row.emit(Commit(row.index, row.time, number, position - 1, position, (following,)))
        opening = following.token
        number += 1
    return reason
