"""Pass: one row's part of a forward; `shared_forwards`: which rows share one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

# Queries per forward of a prefill. Limits the mask to CHUNK x context: 16 MB instead of 1 GB at 32k tokens.
PREFILL_CHUNK = 512

# Passes of at most this many tokens always share a forward. To read the weights once more takes longer than to compute
# this many padding tokens.
SHARED_WIDTH = 64
# Longer passes share a forward if padding adds at most this share of tokens.
_PADDING = 0.1


@dataclass(frozen=True, slots=True)
class Pass:
    """One row's part of a forward.

    tokens: the ids, the first at sequence position `start`. Tokens that were committed at or after `start` are
    rolled back. noised: whether the pass keeps nothing; without groups, its tokens are one noised block. block_size:
    tokens per block; the first block begins at `start`. wanted: the indices into `tokens` whose logits are computed.

    groups: (offset, count) of each group of noise rows. The tokens are then clean ones from `start` on, and after them
    the tokens of the groups, in their order. A group's tokens are at the positions from start + offset on; they see the
    clean tokens before these, committed or of this pass, and each other. Groups may overlap in positions. No other
    token sees them, and the cache keeps none.

    leaves: how many of the first groups are leaves of a tree of drafts (tree verification, as in arXiv 2609.04010): one
    token each, which a draft adapter leaves to the base, as it does the clean ones. moved_from: the position in the
    cache at which the forward before wrote a leaf; it is kept now, as the token before `start`.
    """

    tokens: Sequence[int]
    start: int
    noised: bool
    block_size: int
    wanted: Sequence[int]
    groups: tuple[tuple[int, int], ...] = ()
    leaves: int = 0
    moved_from: int | None = None

    @property
    def clean(self) -> int:
        """The number of its first tokens that are clean."""
        if not self.groups:
            return 0 if self.noised else len(self.tokens)
        return len(self.tokens) - sum(count for _, count in self.groups)

    @property
    def first_noise(self) -> int:
        """The number of its tokens before the first noise row: the clean ones and the leaves."""
        return self.clean + self.leaves

    @property
    def has_noise(self) -> bool:
        return self.first_noise < len(self.tokens)

    @property
    def kept(self) -> int:
        """The number of its first tokens that the cache keeps."""
        return 0 if self.noised else self.clean

    @property
    def offsets(self) -> Sequence[int]:
        """For each token, the distance of its position from `start`."""
        if not self.groups:
            return range(len(self.tokens))
        noise = (at for offset, count in self.groups for at in range(offset, offset + count))
        return [*range(self.clean), *noise]

    def noise_after_first_token(self) -> Self:
        """A noised block as a draft adapter reads it: its first token is clean, the others are noise rows after it.
        Other passes are unchanged."""
        return replace(self, groups=((1, len(self.tokens) - 1),)) if self.noised and not self.groups else self

    @classmethod
    def prefill(
        cls,
        tokens: Sequence[int],
        block_size: int = 1,
        want_next: bool = True,
        start: int = 0,
        chunk: int | None = None,
    ) -> list[Self]:
        """Read a prompt, or a part of one, from position `start` and keep it, with at most `chunk` tokens per pass
        (None: PREFILL_CHUNK). The last pass wants the logits of the last token.

        Causal unless block_size > 1. Chunks end on block borders, because one forward must read a whole block.
        """
        step = max(block_size, (chunk or PREFILL_CHUNK) // block_size * block_size)
        chunks = []
        for first in range(0, len(tokens), step):
            part = tokens[first : first + step]
            wanted = [len(part) - 1] if want_next and first + step >= len(tokens) else []
            chunks.append(cls(part, start + first, False, block_size, wanted))
        return chunks

    @classmethod
    def nothing(cls, at: int) -> Self:
        """No token: a row that waits for the other rows. at: the length of its context."""
        return cls((), at, False, 1, ())

    @classmethod
    def denoise(cls, block: Sequence[int], start: int, wanted: Sequence[int]) -> Self:
        """Run a block bidirectionally over the committed context. The cache keeps nothing of it."""
        return cls(block, start, True, len(block), wanted)

    @classmethod
    def commit(cls, block: Sequence[int], start: int, wanted: Sequence[int] | None = None) -> Self:
        """Read a finished block as context and keep it. By default the logits of its last token are wanted."""
        return cls(block, start, False, len(block), (len(block) - 1,) if wanted is None else wanted)

    @classmethod
    def mixed(
        cls,
        clean: Sequence[int],
        start: int,
        groups: Sequence[tuple[int, Sequence[int]]],
        wanted: Sequence[int],
        leaves: Sequence[tuple[int, int]] = (),
    ) -> Self:
        """Read clean tokens causally and keep them; after them, run leaves, (offset, token) each, and groups of noise
        rows, (offset, tokens) each."""
        tokens = [*clean, *(token for _, token in leaves), *(token for _, own in groups for token in own)]
        spans = (*((at, 1) for at, _ in leaves), *((at, len(own)) for at, own in groups))
        return cls(tokens, start, False, 1, wanted, spans, len(leaves))


def shared_forwards(widths: Sequence[int]) -> list[range]:
    """Divide rows into runs of consecutive rows that share a forward. Rows without tokens are in no run.

    widths: the number of tokens of each row's pass. A forward computes as many tokens for every row as for its widest,
    so a row that decodes does not share a forward with a row that reads a long prompt.
    """
    runs: list[range] = []
    widest = tokens = 0  # of the last run
    for row, width in enumerate(widths):
        if width == 0:
            continue
        if runs and runs[-1].stop == row:
            joined = range(runs[-1].start, row + 1)
            most, total = max(widest, width), tokens + width
            if most <= SHARED_WIDTH or most * len(joined) <= (1 + _PADDING) * total:
                runs[-1], widest, tokens = joined, most, total
                continue
        runs.append(range(row, row + 1))
        widest = tokens = width
    return runs
