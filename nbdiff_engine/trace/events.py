"""What a decoder tells the world: one small frozen event per forward, and one at the end.

A reader that wants the text, the figures, a trace file or a picture reads these and nothing else. Positions
count output tokens from 0, the first token after the prompt; where a block grid puts the prompt's tail into
the first block, that tail stands at negative positions. Times are seconds of engine work since the call,
the reader's own time between two events left out.
"""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a token was fixed."""

    AR = "ar"  # AR logits of the last committed token
    OVER_THRESHOLD = "over_threshold"  # confidence strictly above the threshold
    OVER_FACTOR = "over_factor"  # sure enough to be fixed together with all that are surer, by the factor rule
    OVER_MARGIN = "over_margin"  # its lead over the second-best token is strictly above the margin
    MOST_CONFIDENT = "most_confident"  # the surest of its pass by the policy's measure: every pass makes progress
    TOP_K = "top_k"  # among the k most confident of its pass
    LOWEST_ENTROPY = "lowest_entropy"  # among the k positions of least entropy
    WITHIN_ENTROPY_BOUND = "within_entropy_bound"  # among the positions of least entropy that the bound lets through
    SCHEDULED = "scheduled"  # among the most confident, as many as the schedule of fixed steps asks for
    DRAFT = "draft"  # guessed in a denoise pass, to be verified
    ACCEPTED_DRAFT = "accepted_draft"  # a draft that the AR pass agrees with
    CORRECTION = "correction"  # AR's token where the draft was wrong


class FinishReason(StrEnum):
    """Why an answer ended."""

    EOS = "eos"  # the model ended it
    STOP_STRING = "stop_string"  # one of the caller's stop strings appeared
    LENGTH = "length"  # max_new_tokens, or the checkpoint's context, is reached


@dataclass(frozen=True, slots=True)
class Fixed:
    """A token that a forward fixed. confidence: its plain softmax probability, 6 decimals.

    runners_up: the best other tokens with their probabilities; empty when tracing is off.
    """

    position: int
    token: int
    confidence: float
    reason: Reason
    runners_up: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """A position that stays masked after a forward, and what it would have become."""

    position: int
    token: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """The prompt has been read up to `prompt_tokens`: a long one in several forwards, an event each.

    fixed: after the last of them the first token, where the checkpoint takes it from AR logits. The tail of a
    prompt that an absolute grid puts into the first block is read with that block, a prompt shorter than a block
    wholly so: then there is no such event.
    """

    row: int
    time: float
    prompt_tokens: int
    fixed: tuple[Fixed, ...] = ()


@dataclass(frozen=True, slots=True)
class Denoise:
    """One denoise pass over the block at [start, stop). `step` counts the block's passes from 0.

    pending: what stays masked of the positions this pass looked at; empty when tracing is off.
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
    """The finished block at [start, stop) is context now. `fixed` is the first token of the next one.

    AR decoding is this event alone: every commit is a block of one token.
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
    it are context now; the later drafts are rejected and rolled back, or stand behind the answer's end.

    fixed: the accepted drafts, with AR's probability of each, then AR's own token for the next position,
    unless the answer ended before it.
    """

    row: int
    time: float
    block: int
    start: int
    stop: int
    accepted: int
    fixed: tuple[Fixed, ...] = ()

    @property
    def rejected(self) -> tuple[int, ...]:
        """Positions of the drafts that were not accepted."""
        return tuple(range(self.start + 1 + self.accepted, self.stop))


@dataclass(frozen=True, slots=True)
class Finish:
    """The row is done. token_ids: its whole answer, cut to length, the EOS included."""

    row: int
    time: float
    reason: FinishReason
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """A reader has changed the canvas by hand, and decoding goes on from it: no forward, and no time.

    The canvas is cut at `start`, and everything before it is context; from there on it holds `tokens`, None where
    masked. changed: the positions that the reader meant; others may have been masked again because of them.
    """

    row: int
    time: float
    start: int
    tokens: tuple[int | None, ...]
    changed: tuple[int, ...] = ()


Forward = Prefill | Denoise | Commit | Verify
DecodeEvent = Forward | Edit | Finish
