"""The metrics of a decode, as functions of its events. Only this file counts tokens.

- A *forward* is one call of the network at decode time. Commits and verifications count; the prefill is reported
  separately. In a batch a row counts only the forwards in which it took part.
- *Tokens per forward* (TPF) = (output tokens, including the EOS, - 1) / forwards: the first token belongs to the
  prefill, so AR is exactly 1.0. None if there was no forward.
- *Tokens per second* has the same numerator, divided by the decode wall time.
- For a *fork* (a trace with an Edit) the metrics describe the decoding after the last edit: tokens that existed before
  do not count in either rate, and the prefill is the reading of all tokens that were kept.
- The rates of *several answers* are ratios of sums, never means of rates (`pooled`).
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from nbdiff_engine.trace.events import Commit, DecodeEvent, Denoise, Edit, Finish, Prefill, Verify


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one answer; seconds of engine work; a rate is None if its divisor is zero."""

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
    drafted: int = 0  # self-speculation: draft tokens that were verified
    accepted: int = 0  # and how many of them were accepted


@dataclass(frozen=True, slots=True)
class Rates:
    """The metrics of several answers together; a rate is None if its divisor is zero."""

    answers: int
    output_tokens: int
    decoded_tokens: int  # output tokens without each answer's first: the numerator of both rates
    decode_forwards: int  # summed over rows: the forwards in which each row took part
    seconds: float  # prefill and decode
    decode_seconds: float
    tokens_per_forward: float | None
    tokens_per_second: float | None
    drafted: int
    accepted: int


def pooled(metrics: Iterable[Metrics], batches: Sequence[Hashable] | None = None) -> Rates:
    """Rates as ratios of sums over the answers. The answers must start at the prompt's end, so forks are not allowed.

    batches: the batch in which each answer was decoded; None: each answer alone. The rows of a batch share its time,
    which lasts from the call to the last token of any row; its decode time begins at the first token of any row.
    """
    answers = list(metrics)
    rows: dict[Hashable, list[Metrics]] = {}
    for batch, each in zip(range(len(answers)) if batches is None else batches, answers, strict=True):
        rows.setdefault(batch, []).append(each)
    seconds = sum(max(each.prefill_seconds + each.decode_seconds for each in own) for own in rows.values())
    decode_seconds = seconds - sum(min(each.prefill_seconds for each in own) for own in rows.values())
    forwards = sum(each.decode_forwards for each in answers)
    decoded = sum(each.output_tokens - 1 for each in answers)
    return Rates(
        answers=len(answers),
        output_tokens=sum(each.output_tokens for each in answers),
        decoded_tokens=decoded,
        decode_forwards=forwards,
        seconds=seconds,
        decode_seconds=decode_seconds,
        tokens_per_forward=_per_forward(decoded, forwards),
        tokens_per_second=_per_second(decoded, forwards, decode_seconds),
        drafted=sum(each.drafted for each in answers),
        accepted=sum(each.accepted for each in answers),
    )


def _per_forward(decoded: int, forwards: int) -> float | None:
    return decoded / forwards if forwards else None


def _per_second(decoded: int, forwards: int, seconds: float) -> float | None:
    return decoded / seconds if forwards and seconds > 0 else None


def measure(events: Iterable[DecodeEvent]) -> Metrics:
    """The metrics of one row, from all its events in order.

    The time of the first token is the end of the prefill (AR logits), or else of the first denoise pass that fixes
    position 0. The time of the first block is the end of its commit, or the end of the answer if that is earlier.
    """
    denoise = commit = drafted = accepted = kept = 0
    first_token = first_block = None
    begun = prefill_end = 0.0  # prefill_end stays 0 if the whole prompt is read with the first block
    given = 1  # tokens that do not come from a decode forward
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
            # In a fork, the first new token; existing tokens are never fixed again.
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
        tokens_per_forward=_per_forward(made, forwards),
        tokens_per_second=_per_second(made, forwards, seconds),
        seconds_to_first_token=(event.time if first_token is None else first_token) - begun,
        seconds_to_first_block=(event.time if first_block is None else first_block) - begun,
        drafted=drafted,
        accepted=accepted,
    )
