"""Predicted tokens from logits: greedy or sampled, the same for every strategy.

A sampled token is argmax(log p + Gumbel noise); the noise is a hash of (seed, row, output position, token). The noise
at a position is therefore the same for a draft and for AR: a draft is correct iff it equals the token that AR samples
there, and self-speculation reproduces sampled AR token for token. There is no generator state, so neither the order
of the forwards nor the device changes a sample.

Confidence is always the plain softmax probability of the predicted token, so a threshold has the same meaning at
every temperature. Shape suffixes: N positions, V vocabulary, C candidates.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RUNNERS_UP = 4
_FIRST_CANDIDATES = 256  # first try for a nucleus; a peaked distribution needs no more


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predictions for n positions, as plain lists: one device transfer for the whole batch."""

    tokens: list[int]
    confidence: list[float]
    entropy: list[float] | None = None  # nats
    margin: list[float] | None = None  # probability of the best token minus that of the second best
    runners_up: list[tuple[tuple[int, float], ...]] | None = None

    def part(self, first: int, last: int) -> "Prediction":
        """Positions first..last-1: one row's part of a batch."""
        return Prediction(
            self.tokens[first:last],
            self.confidence[first:last],
            self.entropy and self.entropy[first:last],
            self.margin and self.margin[first:last],
            self.runners_up and self.runners_up[first:last],
        )


@dataclass(frozen=True, slots=True)
class Sampler:
    """Chooses tokens from logits. temperature: 0 is greedy. top_k, then top_p: restrict the distribution after the
    temperature. forbidden: ids that are never predicted (MASK has no probability: the zero masking probability of
    MDLM, arXiv 2406.07524)."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    forbidden: tuple[int, ...] = ()

    @torch.inference_mode()
    def predict(
        self, logits_NV: Tensor, rows: Sequence[int], positions: Sequence[int], needs: Collection[str] = ()
    ) -> Prediction:
        """Token and confidence for N positions, position i of row rows[i] at output index positions[i].

        needs: the other measures that an unmasking policy needs, of "entropy" and "margin". Both are of the plain
        softmax, independent of the sampled token. Overwrites the forbidden entries of `logits_NV` with -inf, in place.
        """
        if len(logits_NV) == 0:
            return Prediction([], [], *([] if name in needs else None for name in ("entropy", "margin")))
        for token in self.forbidden:
            logits_NV[:, token] = -torch.inf
        if self.temperature == 0:
            tokens_N = logits_NV.argmax(dim=-1)
        else:
            tokens_N = self._sample(logits_NV / self.temperature, rows, positions)
        p_NV = logits_NV.softmax(dim=-1)
        confidence_N = p_NV.gather(1, tokens_N[:, None])[:, 0]
        entropy = margin = None
        if "entropy" in needs:  # xlogy: 0 log 0 is 0, as for a forbidden token
            entropy = (-torch.special.xlogy(p_NV, p_NV).sum(dim=-1)).tolist()
        if "margin" in needs:
            best_N2 = p_NV.topk(2, dim=-1).values
            margin = (best_N2[:, 0] - best_N2[:, 1]).tolist()
        return Prediction(tokens_N.tolist(), confidence_N.tolist(), entropy, margin)

    @torch.inference_mode()
    def runners_up(self, logits_NV: Tensor, prediction: Prediction) -> list[tuple[tuple[int, float], ...]]:
        """The alternatives: for each position the best tokens except the predicted one, with their probabilities."""
        if len(logits_NV) == 0:
            return []
        top = logits_NV.topk(min(RUNNERS_UP + 1, logits_NV.shape[1]), dim=-1)
        p_NC = (top.values - logits_NV.logsumexp(dim=-1, keepdim=True)).exp()
        return [
            tuple((other, round(p, 6)) for other, p in zip(ids, ps) if other != token and p > 0)[:RUNNERS_UP]
            for token, ids, ps in zip(prediction.tokens, top.indices.tolist(), p_NC.tolist())
        ]

    def _sample(self, scaled_NV: Tensor, rows: Sequence[int], positions: Sequence[int]) -> Tensor:
        """argmax(log p + Gumbel) over the candidates of top_k and top_p. Token ids [N]."""
        values_NC, ids_NC = self._candidates(scaled_NV)
        keys = [noise_key(self.seed, row, position) for row, position in zip(rows, positions, strict=True)]
        noise_NC = gumbel(torch.tensor(keys, device=scaled_NV.device)[:, None], ids_NC)
        return ids_NC.gather(1, (values_NC + noise_NC).argmax(dim=-1, keepdim=True))[:, 0]

    def _candidates(self, scaled_NV: Tensor) -> tuple[Tensor, Tensor]:
        """Log weights and ids [N, C] of the tokens that may be sampled, without sorting the vocabulary."""
        vocabulary = scaled_NV.shape[1]
        nucleus = self.top_p if self.top_p is not None and self.top_p < 1 else None
        if self.top_k is not None:
            values, ids = scaled_NV.topk(min(self.top_k, vocabulary), dim=-1)
            total_N1 = values.logsumexp(dim=-1, keepdim=True)
        elif nucleus is None:
            return scaled_NV, torch.arange(vocabulary, device=scaled_NV.device)[None].expand_as(scaled_NV)
        else:
            total_N1 = scaled_NV.logsumexp(dim=-1, keepdim=True)
            count = min(_FIRST_CANDIDATES, vocabulary)
            while True:
                values, ids = scaled_NV.topk(count, dim=-1)
                if count == vocabulary or bool(((values - total_N1).exp().sum(dim=-1) >= nucleus).all()):
                    break
                count = min(count * 8, vocabulary)
        if nucleus is not None:
            p_NC = (values - total_N1).exp()
            before_NC = p_NC.cumsum(dim=-1) - p_NC
            values = values.masked_fill(before_NC >= nucleus, -torch.inf)
        return values, ids


# -- noise ----------------------------------------------------------------------------------------------

_U64 = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # the odd constant of splitmix64, 2^64 / golden ratio
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def noise_key(seed: int, row: int, position: int) -> int:
    """A 64-bit key, as a signed integer, for one output position of one row."""
    key = 0
    for part in (seed, row, position):
        key = (key + part + 1) * _STEP & _U64
        for shift, factor in _MIX:
            key = (key ^ key >> shift) * factor & _U64
        key ^= key >> 31
    return _signed(key)


def gumbel(keys: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise for (key, token) pairs, float32, broadcast over both. A pure function (splitmix64)."""
    z = keys + (tokens + 1) * _signed(_STEP)  # int64 arithmetic wraps, as the hash requires
    for shift, factor in _MIX:
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    z = z ^ _shifted(z, 31)
    # A small u gives large noise. float64 has a fine resolution at small u, so the upper tail is not truncated.
    u = (_shifted(z, 12).double() + 0.5) * 2.0**-52
    return (-torch.log(-torch.log1p(-u))).float()


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's shift copies the sign."""
    return z >> bits & (1 << 64 - bits) - 1


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
