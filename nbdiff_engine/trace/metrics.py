"""The figures of a decode, as functions of its events. Nothing else counts tokens.

- A *forward* is one call of the network at decode time; prefill is reported apart, commits and verifications
  count. In a batch a row counts only the forwards it took part in.
- *Tokens per forward* (TPF) = (output tokens, EOS included, - 1) / forwards: the first token belongs to the
  prefill, so AR is exactly 1.0. None where there was no forward.
- *Tokens per second* has the same numerator, over decode wall time.
- Of a *fork* (a trace with an Edit) the figures are of what was decoded after the last edit: tokens that stood
  there already count in neither, and the prefill is the reading of all that was kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nbdiff_engine.trace.events import Commit, DecodeEvent, Denoise, Edit, Finish, Prefill, Verify


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of one answer; seconds of engine work, None where there is nothing to divide by."""

    output_tokens: int  # up to and including EOS
    prefill_seconds: float
    decode_seconds: float
    decode_forwards: int
    denoise_forwards: int
    commit_forwards: int  # commits and verifications
    tokens_per_forward: float | None
    tokens_per_second: float | None
    seconds_to_first_token: float
    seconds_to_first_block: float
    drafted: int = 0  # self-speculation: draft tokens put to verification
    accepted: int = 0  # and how many of them AR agreed with


def measure(events: Iterable[DecodeEvent]) -> Metrics:
    """The figures of one row, from all its events in order.

    The first token is there when the prefill is done (AR logits) or else when the first denoise pass has
    fixed position 0; the first block when its commit is done, or the answer if that comes sooner.
    """
    denoise = commit = drafted = accepted = kept = 0
    first_token = first_block = None
    begun = prefill_end = 0.0  # the latter stays so where the whole prompt is read with the first block
    given = 1  # tokens that no forward of decoding has to make
    for event in events:
        match event:
            case Prefill():
                prefill_end = event.time
                given = max(given, len(event.fixed))
            case Denoise():
                denoise += 1
            case Commit():
                commit += 1
                first_block = event.time if first_block is None else first_block
            case Verify():
                commit += 1
                drafted += event.stop - event.start - 1
                accepted += event.accepted
                first_block = event.time if first_block is None else first_block
            case Edit():
                denoise = commit = drafted = accepted = given = 0
                first_token = first_block = None
                begun = prefill_end = event.time
                kept = event.start + sum(token is not None for token in event.tokens)
        if first_token is None and not isinstance(event, Finish | Edit):
            # Of a fork, the first new one; what stands already is never fixed again.
            wanted = kept or any(each.position == 0 for each in event.fixed)
            first_token = event.time if wanted and event.fixed else None
    if not isinstance(event, Finish):
        raise ValueError("the events do not end in a Finish: the answer is not done")
    tokens, forwards = max(len(event.token_ids) - kept, 0), denoise + commit
    made = max(tokens - given, 0)
    seconds = event.time - prefill_end
    return Metrics(
        output_tokens=tokens,
        prefill_seconds=prefill_end - begun,
        decode_seconds=seconds,
        decode_forwards=forwards,
        denoise_forwards=denoise,
        commit_forwards=commit,
        tokens_per_forward=made / forwards if forwards else None,
        tokens_per_second=made / seconds if forwards and seconds > 0 else None,
        seconds_to_first_token=(event.time if first_token is None else first_token) - begun,
        seconds_to_first_block=(event.time if first_block is None else first_block) - begun,
        drafted=drafted,
        accepted=accepted,
    )
