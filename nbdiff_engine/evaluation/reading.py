"""Clean tokens read in one batch, and the log-probability of the tokens that follow them. `likelihood` builds on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.passes import PREFILL_CHUNK, Pass
from nbdiff_engine.model.session import Session

MAX_LOGITS = 2**26  # maximum number of logits of one forward: 256 MB in float32

Pair = tuple[Sequence[int], Sequence[int]]  # token ids of a context and of its continuation


@dataclass(frozen=True, slots=True)
class Reading:
    """Clean tokens to read, the sorted positions whose logits are wanted, and for each of these positions the tokens to
    score as its next token.

    Tokens before `first_block` are read causally, later ones in whole blocks of `block_size`.
    """

    tokens: list[int]
    wanted: Sequence[int]
    followed_by: Sequence[Sequence[int]]
    block_size: int = 1
    first_block: int = 0

    @classmethod
    def causal(cls, pair: Pair, last: Sequence[int]) -> Self:
        """A continuation whose last token may be any token of `last`."""
        context, continuation = pair
        tokens = [*context, *continuation[:-1]]
        follow = [*([token] for token in continuation[:-1]), last]
        return cls(tokens, range(len(context) - 1, len(tokens)), follow)

    def passes(self, most_wanted: int) -> Iterable[Pass]:
        """One pass per chunk, with the logits of at most `most_wanted` tokens or of one block."""
        at, wanted = 0, self.wanted
        while at < len(self.tokens):
            next_wanted = next((each for each in wanted if each >= at), len(self.tokens))
            width = max(1, min(PREFILL_CHUNK, next_wanted - at + most_wanted, len(self.tokens) - at))
            size = 1
            if at < self.first_block:
                width = min(width, self.first_block - at)
            elif self.block_size > 1:
                size = self.block_size
                width = max(size, width // size * size)
            own = [each - at for each in wanted if at <= each < at + width]
            yield Pass(self.tokens[at : at + width], at, False, size, own)
            at += width


def read(session: Session, readings: Sequence[Reading]) -> list[tuple[list[float], list[bool]]]:
    """Read all rows in one batch and keep them. Returns per row, for each token to score: its log-probability, and
    whether it is the most probable token."""
    model = session.model
    most_wanted = max(1, MAX_LOGITS // (len(readings) * model.vocab_size))
    chunks = [list(reading.passes(most_wanted)) for reading in readings]
    follow = [iter(reading.followed_by) for reading in readings]
    found: list[tuple[list[float], list[bool]]] = [([], []) for _ in readings]
    for number in range(max(map(len, chunks))):
        passes = [
            own[number] if number < len(own) else Pass.nothing(len(reading.tokens))
            for own, reading in zip(chunks, readings)
        ]
        logits_NV = session.run(passes)
        asked = [(row, next(follow[row])) for row, each in enumerate(passes) for _ in each.wanted]
        if not asked:
            continue
        targets = [(row, index, token) for index, (row, tokens) in enumerate(asked) for token in tokens]
        rows, indices, tokens = zip(*targets)
        log_probs, best = score(model, logits_NV, tokens, indices)
        for row, log_prob, greedy in zip(rows, log_probs.tolist(), best.tolist()):
            found[row][0].append(log_prob)
            found[row][1].append(greedy)
    return found


def score(
    model: BlockModel, logits_NV: Tensor, tokens: Sequence[int], indices: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [T] of tokens, where token t uses row indices[t] of the logits (None: row t) and the
    distribution excludes MASK; and whether each token is the most probable one."""
    logits_NV[:, list(model.never_predicted)] = -torch.inf
    index_T = torch.arange(len(tokens)) if indices is None else torch.tensor(indices)
    index_T, token_T = index_T.to(logits_NV.device), torch.tensor(tokens, device=logits_NV.device)
    log_probs_T = logits_NV[index_T, token_T] - logits_NV.logsumexp(dim=-1)[index_T]
    return log_probs_T, logits_NV.argmax(dim=-1)[index_T] == token_T


def open_session(model: BlockModel, lengths: Sequence[int], block_size: int = 0) -> Session:
    """A session for texts of these lengths, with room for padding to a chunk that another row reads."""
    longest = max(lengths) + block_size
    return model.open(len(lengths), longest + min(longest, PREFILL_CHUNK), row_lengths=lengths)
