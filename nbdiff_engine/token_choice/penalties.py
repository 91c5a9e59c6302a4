"""Changes of logits that depend on the tokens before a position: penalties for repetition, and a bias.

All of them are functions of the position's prefix: the known tokens before it, prompt included. A position that is
still MASK is not counted. A pass over a block therefore changes the logits of its positions differently: the prefix
of a position holds the block's known tokens before it. In the verify pass of self-speculation these are the drafts, so
that an accepted draft has the prefix that it has in AR.

Shape suffixes: n positions of one row, C different tokens of its prefix, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class PrefixCounts:
    """The different tokens at one row's first `length` sequence positions, and how often each is in the answer."""

    def __init__(self, prompt_tokens: int):
        self.prompt_tokens = prompt_tokens
        self.length = 0
        self.tokens: list[int] = []  # in the order of their first appearance
        self.in_answer: list[int] = []  # for each of `tokens`
        self.index: dict[int, int] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Count the tokens at the sequence positions from `length` on."""
        for token in tokens:
            at = self.index.setdefault(token, len(self.tokens))
            if at == len(self.tokens):
                self.tokens.append(token)
                self.in_answer.append(0)
            self.in_answer[at] += self.length >= self.prompt_tokens
            self.length += 1


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The prefixes of one row's predicted positions.

    counts: the tokens before a pass. tokens: the tokens of the pass, None where masked. lengths: for each position, the
    number of these tokens before it.
    """

    counts: PrefixCounts
    tokens: Sequence[int | None]
    lengths: Sequence[int]


@dataclass(frozen=True, slots=True)
class Penalties:
    """repetition: divides positive and multiplies negative logits of tokens in the prefix, prompt included (as in
    transformers; CTRL, arXiv 1909.05858). presence, frequency: subtracted from the logits of tokens in the answer so
    far, once or for each time (as in OpenAI's API). bias: (token, number to add) pairs, added before the penalties.
    """

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def read_prefixes(self) -> bool:
        """Whether `changed` needs the prefixes."""
        return self.repetition != 1 or self.presence != 0 or self.frequency != 0

    @property
    def change_logits(self) -> bool:
        return bool(self.bias) or self.read_prefixes

    def changed(self, logits_NV: Tensor, prefixes: Sequence[Prefixes]) -> Tensor:
        """The changed logits, as a new tensor. prefixes: of all rows, in the order of the positions."""
        logits_NV = logits_NV.clone()
        if self.bias:
            ids, values = zip(*self.bias)
            logits_NV[:, list(ids)] += torch.tensor(values, device=logits_NV.device)
        if self.read_prefixes:
            first = 0
            for each in prefixes:
                if each.lengths:
                    self._penalise(logits_NV[first : first + len(each.lengths)], each)
                    first += len(each.lengths)
            assert first == len(logits_NV), "a position without a prefix"
        return logits_NV

    def _penalise(self, logits_nV: Tensor, prefixes: Prefixes) -> None:
        """Apply the penalties to one row's logits, in place."""
        seen_nC, count_nC, ids_C = _counted(prefixes)
        if not ids_C:
            return
        device = logits_nV.device
        seen_nC, count_nC = seen_nC.to(device), count_nC.to(device)
        ids = torch.tensor(ids_C, device=device)
        chosen_nC = logits_nV[:, ids]
        if self.repetition != 1:
            penalised_nC = torch.where(chosen_nC < 0, chosen_nC * self.repetition, chosen_nC / self.repetition)
            chosen_nC = torch.where(seen_nC, penalised_nC, chosen_nC)
        if self.presence or self.frequency:
            chosen_nC = chosen_nC - self.presence * (count_nC > 0) - self.frequency * count_nC
        logits_nV[:, ids] = chosen_nC


NO_PENALTIES = Penalties()


def _counted(prefixes: Prefixes) -> tuple[Tensor, Tensor, list[int]]:
    """Whether a token is in a position's prefix, bool [n, C]; how often in the answer, float32 [n, C]; the tokens."""
    counts, known = prefixes.counts, [(at, t) for at, t in enumerate(prefixes.tokens) if t is not None]
    own = list(dict.fromkeys(token for _, token in known))  # the pass's different tokens
    new = [token for token in own if token not in counts.index]
    n, ids = len(prefixes.lengths), counts.tokens + new
    seen_nC = torch.ones(n, len(ids), dtype=torch.bool)
    seen_nC[:, len(counts.tokens) :] = False
    count_nC = torch.tensor([*counts.in_answer, *[0] * len(new)], dtype=torch.float32).repeat(n, 1)
    if known:
        places, tokens = zip(*known)
        position = torch.tensor(places)
        before_nA = position < torch.tensor(prefixes.lengths)[:, None]  # A known tokens of the pass
        is_token_AW = torch.tensor(tokens)[:, None] == torch.tensor(own)
        in_answer_A = position + counts.length >= counts.prompt_tokens
        column = {token: at for at, token in enumerate(new, start=len(counts.tokens))}
        columns = torch.tensor([counts.index.get(token, column.get(token)) for token in own])
        seen_nC[:, columns] |= (before_nA.float() @ is_token_AW.float()) > 0
        count_nC[:, columns] += (before_nA & in_answer_A).float() @ is_token_AW.float()
    return seen_nC, count_nC, ids
