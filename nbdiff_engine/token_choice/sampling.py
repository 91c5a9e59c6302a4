"""Predicted tokens from logits: greedy or sampled, the same for every strategy.

A sampled token is argmax(log p + Gumbel noise); the noise is a hash of (seed, row, output position, token). The noise
at a position is therefore the same for a draft and for AR: a draft is correct iff it equals the token that AR samples
there, and self-speculation reproduces sampled AR token for token. There is no generator state, so neither the order
of the forwards nor the device changes a sample. Bias and penalties depend on the tokens before a position only, and
keep this property.

Confidence is always the plain softmax probability of the predicted token: a threshold has the same meaning at every
temperature and with every penalty. Shape suffixes: N positions, V vocabulary, C candidates.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nbdiff_engine.token_choice.noise import argmax_with_noise, gumbel, noise_key
from nbdiff_engine.token_choice.penalties import NO_PENALTIES, Penalties, Prefixes
from nbdiff_engine.trace.events import TokenLogprobs

ALTERNATIVES = 4
MAX_CANDIDATES = 15  # of a position
_FIRST_CANDIDATES = 256  # first try for a nucleus; a peaked distribution needs no more


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predictions for n positions, as plain lists: one device transfer for the whole batch."""

    tokens: list[int]
    confidence: list[float]
    entropy: list[float] | None = None  # nats
    margin: list[float] | None = None  # probability of the best token minus that of the second best
    alternatives: list[tuple[tuple[int, float], ...]] | None = None
    logprobs: list[TokenLogprobs] | None = None
    candidates: list[tuple[tuple[int, float], ...]] | None = None  # next-best tokens, see `Sampler.predict`

    def part(self, first: int, last: int) -> "Prediction":
        """Positions first..last-1: one row's part of a batch."""
        return Prediction(
            self.tokens[first:last],
            self.confidence[first:last],
            self.entropy and self.entropy[first:last],
            self.margin and self.margin[first:last],
            self.alternatives and self.alternatives[first:last],
            self.logprobs and self.logprobs[first:last],
            self.candidates and self.candidates[first:last],
        )


@dataclass(frozen=True, slots=True)
class Sampler:
    """Chooses tokens from logits. penalties: change the logits first. temperature: 0 is greedy. top_k, then top_p, then
    min_p: restrict the distribution after the temperature; min_p leaves the tokens that have at least this share of the
    best token's probability (arXiv 2407.01082). forbidden: ids that are never predicted (MASK has no probability: the
    zero masking probability of MDLM, arXiv 2406.07524). logprobs: report the log-probability of each predicted token,
    and that many of the best tokens; None: do not."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0
    forbidden: tuple[int, ...] = ()
    penalties: Penalties = NO_PENALTIES
    logprobs: int | None = None

    @torch.inference_mode()
    def predict(
        self,
        logits_NV: Tensor,
        rows: Sequence[int],
        positions: Sequence[int],
        needs: Collection[str] = (),
        prefixes: Sequence[Prefixes] = (),
        candidates: int = 0,
        drafting: Sequence[int] = (),
        seeds: Sequence[int] = (),
    ) -> Prediction:
        """Token and confidence for N positions, position i of row rows[i] at output index positions[i].

        seeds: of each position, where rows of other seeds are among them; empty: the sampler's own for all.

        needs: the other measures that an unmasking policy needs, of "entropy" and "margin". Both are of the plain
        softmax, independent of the sampled token. prefixes: of the rows with positions, in their order, if
        `penalties.read_prefixes`. Overwrites the forbidden entries of `logits_NV` with -inf, in place.

        candidates, drafting: for the positions with these indices, the prediction also has that many next-best tokens
        in the order of the choice itself (of a sampled token: with its noise), best first, each with its share: the
        probability that it is the right one if the predicted token is not, among MAX_CANDIDATES of them.
        """
        if len(logits_NV) == 0:
            return Prediction([], [], *([] if name in needs else None for name in ("entropy", "margin")))
        for token in self.forbidden:
            logits_NV[:, token] = -torch.inf
        changed_NV = self.penalties.changed(logits_NV, prefixes) if self.penalties.change_logits else logits_NV
        chosen_from: tuple[Tensor, Tensor | None] = changed_NV, None
        keys: list[int] = []
        if self.temperature == 0:
            tokens_N = changed_NV.argmax(dim=-1)
        else:
            places = zip(seeds or [self.seed] * len(rows), rows, positions, strict=True)
            keys = [noise_key(*place) for place in places]
            chosen_from = self._candidates(changed_NV if self.temperature == 1 else changed_NV / self.temperature)
            tokens_N = self._sample(*chosen_from, keys)
        p_NV = logits_NV.softmax(dim=-1)
        confidence_N = p_NV.gather(1, tokens_N[:, None])[:, 0]
        entropy = margin = logprobs = None
        if "entropy" in needs:  # xlogy: 0 log 0 is 0, as for a forbidden token
            entropy = (-torch.special.xlogy(p_NV, p_NV).sum(dim=-1)).tolist()
        if "margin" in needs:
            best_N2 = p_NV.topk(2, dim=-1).values
            margin = (best_N2[:, 0] - best_N2[:, 1]).tolist()
        if self.logprobs is not None:
            logprobs = self._logprobs(tokens_N, logits_NV, *chosen_from)
        following = None
        if candidates and drafting:
            own_keys = [keys[index] for index in drafting] if keys else []
            own = self._following(tokens_N, *chosen_from, list(drafting), own_keys, candidates)
            following = [()] * len(logits_NV)
            for index, each in zip(drafting, own, strict=True):
                following[index] = each
        return Prediction(
            tokens_N.tolist(), confidence_N.tolist(), entropy, margin, logprobs=logprobs, candidates=following
        )

    @torch.inference_mode()
    def alternatives(self, logits_NV: Tensor, prediction: Prediction) -> list[tuple[tuple[int, float], ...]]:
        """The alternatives: for each position the best tokens except the predicted one, with their probabilities."""
        if len(logits_NV) == 0:
            return []
        top = logits_NV.topk(min(ALTERNATIVES + 1, logits_NV.shape[1]), dim=-1)
        p_NC = (top.values - logits_NV.logsumexp(dim=-1, keepdim=True)).exp()
        return [
            tuple((other, round(p, 6)) for other, p in zip(ids, ps) if other != token and p > 0)[:ALTERNATIVES]
            for token, ids, ps in zip(prediction.tokens, top.indices.tolist(), p_NC.tolist())
        ]

    def _sample(self, values_NC: Tensor, ids_NC: Tensor | None, keys: Sequence[int]) -> Tensor:
        """argmax(log p + Gumbel) over the candidates, with the noise of these keys. Token ids [N]."""
        if ids_NC is None:
            return argmax_with_noise(values_NC, keys)
        noise_NC = gumbel(torch.tensor(keys)[:, None], ids_NC.cpu())  # float64, which not every device has
        chosen_N1 = (values_NC.cpu() + noise_NC).argmax(dim=-1, keepdim=True).to(ids_NC.device)
        return ids_NC.gather(1, chosen_N1)[:, 0]

    def _candidates(self, scaled_NV: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log weights and ids [N, C] of the tokens that may be sampled, without sorting the vocabulary.

        ids None: the candidates are the vocabulary. A weight of -inf: not a candidate.
        """
        vocabulary = scaled_NV.shape[1]
        nucleus = self.top_p if self.top_p is not None and self.top_p < 1 else None
        if self.top_k is not None:
            values, ids = scaled_NV.topk(min(self.top_k, vocabulary), dim=-1)
            total_N1 = values.logsumexp(dim=-1, keepdim=True)
        elif nucleus is None:
            values, ids = scaled_NV, None
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
        if self.min_p:
            least_N1 = values.amax(dim=-1, keepdim=True) + math.log(self.min_p)
            values = values.masked_fill(values < least_N1, -torch.inf)
        return values, ids

    def _following(
        self,
        tokens_N: Tensor,
        values_NC: Tensor,
        ids_NC: Tensor | None,
        drafting: list[int],
        keys: Sequence[int],
        count: int,
    ) -> list[tuple[tuple[int, float], ...]]:
        """The next-best tokens of the positions `drafting`, with their shares. values, ids: as from `_candidates`.

        Only tokens with a large weight are looked at: with noise, one with a small weight is seldom the next best.
        """
        top = values_NC[drafting].topk(min(MAX_CANDIDATES + 1, values_NC.shape[1]), dim=-1)
        ids = top.indices if ids_NC is None else ids_NC[drafting].gather(1, top.indices)
        values, ids = top.values.cpu(), ids.cpu()
        if self.temperature:
            values = values + gumbel(torch.tensor(keys)[:, None], ids)
        values = values.masked_fill(ids == tokens_N[drafting, None].cpu(), -torch.inf)
        best = values.softmax(dim=-1).topk(min(count, values.shape[1]), dim=-1)
        return [
            tuple((token, share) for token, share in zip(tokens, shares) if share > 0)
            for tokens, shares in zip(ids.gather(1, best.indices).tolist(), best.values.tolist())
        ]

    def _logprobs(
        self, tokens_N: Tensor, logits_NV: Tensor, values_NC: Tensor, ids_NC: Tensor | None
    ) -> list[TokenLogprobs]:
        """Of each predicted token and of the best tokens; values, ids: as from `_candidates`."""
        plain_NV, processed_NC = logits_NV.log_softmax(dim=-1), values_NC.log_softmax(dim=-1)
        chosen_N1 = tokens_N[:, None]
        own = plain_NV.gather(1, chosen_N1)[:, 0].tolist()
        at_N1 = chosen_N1 if ids_NC is None else (ids_NC == chosen_N1).float().argmax(dim=-1, keepdim=True)
        own_processed = processed_NC.gather(1, at_N1)[:, 0].tolist()
        return [
            TokenLogprobs(round(p, 6), round(processed, 6), best, best_processed)
            for p, processed, best, best_processed in zip(
                own, own_processed, self._best_of(plain_NV, None), self._best_of(processed_NC, ids_NC)
            )
        ]

    def _best_of(self, log_p_NC: Tensor, ids_NC: Tensor | None) -> list[tuple[tuple[int, float], ...]]:
        """Per position, the `logprobs` best tokens that have a probability, with its logarithm."""
        top = log_p_NC.topk(min(self.logprobs, log_p_NC.shape[1]), dim=-1)
        ids = top.indices if ids_NC is None else ids_NC.gather(1, top.indices)
        return [
            tuple((token, round(p, 6)) for token, p in zip(tokens, ps) if p > -math.inf)
            for tokens, ps in zip(ids.tolist(), top.values.tolist())
        ]
