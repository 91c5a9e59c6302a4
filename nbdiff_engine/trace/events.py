"""The events that a decoder reports: one small frozen event per forward, and one at the end.

The text, the metrics, a trace file and a display are computed from these events only. Positions count output
tokens from 0, the first token after the prompt. If a block grid puts the end of the prompt into the first block,
these prompt tokens have negative positions. Times are seconds of engine work since the call, without the time that
the reader takes between two events.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a token was fixed."""

    AR = "ar"  # AR logits of the last committed token
    OVER_THRESHOLD = "over_threshold"  # confidence strictly above the threshold
    OVER_FACTOR = "over_factor"  # among the n most confident positions that the factor rule fixes together
    OVER_MARGIN = "over_margin"  # its lead over the second-best token is strictly above the margin
    MOST_CONFIDENT = "most_confident"  # the best of its pass by the policy's measure: every pass fixes at least one
    TOP_K = "top_k"  # among the k most confident of its pass
    LOWEST_ENTROPY = "lowest_entropy"  # among the k positions of least entropy
    WITHIN_ENTROPY_BOUND = "within_entropy_bound"  # among the positions of least entropy that the bound allows
    SCHEDULED = "scheduled"  # among the most confident, as many as the schedule of fixed steps requires
    DRAFT = "draft"  # predicted by noise rows, verified later
    ACCEPTED_DRAFT = "accepted_draft"  # a draft that equals the token of the AR pass
    CORRECTION = "correction"  # AR's token instead of a rejected draft


class FinishReason(StrEnum):
    """Why an answer ended."""

    EOS = "eos"  # the model predicted an EOS
    STOP_STRING = "stop_string"  # one of the caller's stop strings appeared
    STOP_TOKEN = "stop_token"  # one of the caller's stop tokens was predicted
    LENGTH = "length"  # max_new_tokens, or the checkpoint's context, is reached


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities at one position, 6 decimals, if the setting `logprobs` asks for them.

    logprob: of the token, in the plain softmax. processed: of the token, in the distribution that it was chosen from,
    after bias, penalties, temperature, top_k, top_p and min_p; for a greedy choice after bias and penalties.
    top, top_processed: the best tokens of both distributions, each with its logarithm, best first.
    """

    logprob: float
    processed: float
    top: tuple[tuple[int, float], ...] = ()
    top_processed: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Fixed:
    """A token that a forward fixed. confidence: its plain softmax probability, 6 decimals.

    alternatives: the alternatives, which are the best other tokens with their probabilities; empty if tracing is off.
    logprobs: None if the setting `logprobs` does not ask for them.
    """

    position: int
    token: int
    confidence: float
    reason: Reason
    alternatives: tuple[tuple[int, float], ...] = ()
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A position that stays masked after a forward, with the token that was predicted for it."""

    position: int
    token: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """The first `prompt_tokens` tokens of the prompt have been read. A long prompt takes several forwards, with one
    event each.

    fixed: in the last of these events, the first token, if the checkpoint takes it from AR logits. If an absolute grid
    puts the end of the prompt into the first block, this part is read with that block. There is no such event if the
    whole prompt is in the first block.
    """

    row: int
    time: float
    prompt_tokens: int
    fixed: tuple[Fixed, ...] = ()


@dataclass(frozen=True, slots=True)
class Denoise:
    """One denoise pass over the block at [start, stop). `step` counts the block's passes from 0.

    pending: the positions that this pass predicted and that stay masked; empty if tracing is off.
    """

    row: int
    time: float
    block: int
    step: int
    start: int
    stop: int
    fixed: tuple[Fixed, ...]
    pending: tuple[Pending, ...] = ()


@dataclass(frozen=True, slots=True)
class Commit:
    """The finished block at [start, stop) is context now. fixed: the first token of the next block.

    AR decoding has only this event: every commit is a block of one token.
    """

    row: int
    time: float
    block: int
    start: int
    stop: int
    fixed: tuple[Fixed, ...] = ()


@dataclass(frozen=True, slots=True)
class Verify:
    """The drafted block at [start, stop) was read causally: its first token and the `accepted` drafts after
    it are context now. The later drafts are rejected and rolled back, or are after the end of the answer. The last of
    the accepted ones may be a candidate, and not the draft that the canvas had there.

    fixed: the accepted drafts, with AR's probability of each, then AR's own token for the next position,
    unless the answer ended before it; then, with the reason DRAFT, the tokens that are drafted after it now: by noise
    rows of this same forward, or left from an earlier one.

    candidates: (position, token) of each other token of the drafter that was verified beside the drafts, the most
    likely first. `accepted_candidate` is the one that AR accepted; the others are rejected.
    """

    row: int
    time: float
    block: int
    start: int
    stop: int
    accepted: int
    fixed: tuple[Fixed, ...] = ()
    candidates: tuple[tuple[int, int], ...] = ()

    @property
    def accepted_candidate(self) -> tuple[int, int] | None:
        """The candidate that was accepted: it is at the last accepted position, and its token is the one there."""
        last = next((each for each in self.fixed if each.position == self.start + self.accepted), None)
        found = None if last is None or not self.accepted else (last.position, last.token)
        return found if found in self.candidates else None

    @property
    def rejected(self) -> tuple[int, ...]:
        """Positions of the drafts that were not accepted."""
        return tuple(range(self.start + 1 + self.accepted, self.stop))


@dataclass(frozen=True, slots=True)
class Finish:
    """The row is finished. token_ids: its whole answer, cut to length, including the EOS."""

    row: int
    time: float
    reason: FinishReason
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """A person has changed the canvas, and decoding continues from it. It has no forward and takes no time.

    The canvas is cut at `start`: all tokens before it are context, and `tokens` follow it; None is a masked position.
    changed: the positions that the person changed; other positions may be masked again because of the change.
    """

    row: int
    time: float
    start: int
    tokens: tuple[int | None, ...]
    changed: tuple[int, ...] = ()


Forward = Prefill | Denoise | Commit | Verify
DecodeEvent = Forward | Edit | Finish


def logprobs_of(events: Iterable[DecodeEvent]) -> list[TokenLogprobs | None]:
    """For each token of a finished answer, the log-probabilities that it was fixed with; None for a token that no event
    fixed: it was there before, or a person wrote it. Raises ValueError if there is no Finish."""
    found: dict[int, Fixed] = {}
    for event in events:
        if isinstance(event, Finish):
            own = (found.get(position) for position in range(len(event.token_ids)))
            return [
                each.logprobs if each is not None and each.token == token else None
                for each, token in zip(own, event.token_ids)
            ]
        if isinstance(event, Edit):
            found = {at: each for at, each in found.items() if at < event.start or _kept(event, each)}
        else:
            found |= {each.position: each for each in event.fixed}
    raise ValueError("the events do not end in a Finish: the answer is not done")


def _kept(edit: Edit, fixed: Fixed) -> bool:
    """Whether an edit has left this token, at or after the edit's start, as it was."""
    index = fixed.position - edit.start
    return index < len(edit.tokens) and edit.tokens[index] == fixed.token and fixed.position not in edit.changed
