"""The losses of a draft adapter at its noise rows, and their gradient, computed together.

p is the base's distribution of a token (its softmax at temperature 1 where it has read the true text), q the drafter's
at the same token, w the weight of the row:

    CE = -log q[token]        KL = sum p log(p / q)        TV = 1 - sum min(p, q)

TV is one minus the probability with which speculative sampling accepts a token drawn from q (Uno, arXiv 2609.04010).
The loss is the sum of w * (ce CE + kl KL + tv TV) over the rows.

The head is frozen, so only the gradient of the hidden states is needed. It is computed with the loss, a chunk of rows
at a time. Logits are therefore never in memory for all rows, and the head is not run again in the backward pass. A CPU
computes the losses of a chunk a few rows at a time, so that the values stay in its cache: with 49,152 tokens in the
vocabulary this is 3.5 times as fast.

Shape suffixes: T rows, D hidden size, V vocabulary, U tokens whose logits of the base are needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.objective.objective import chunk_rows

_CACHED_BYTES = 2**21  # of the logits of the rows that a CPU scores at once


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the three losses."""

    ce: float = 1.0
    kl: float = 0.0
    tv: float = 0.0

    @property
    def needs_teacher(self) -> bool:
        return self.kl > 0 or self.tv > 0


@dataclass(frozen=True, slots=True)
class Targets:
    """What the rows are scored by: T rows, the teacher's hidden states [U, D], and the index of each row's, [T].

    The indices must be in increasing order, so that the rows of a chunk share the logits of the base.
    """

    tokens: Tensor  # int64 [T]
    weight: Tensor  # float32 [T]
    teacher_UD: Tensor | None  # None if only the cross-entropy is wanted
    teacher_at: Tensor  # int64 [T]


@dataclass(frozen=True, slots=True)
class ScoringHead:
    """The output layer of the network. scale: of the logits."""

    layer: nn.Module
    scale: float
    vocab_size: int

    def __call__(self, hidden_TD: Tensor) -> Tensor:
        logits_TV = self.layer(hidden_TD).float()
        return logits_TV if self.scale == 1 else logits_TV * self.scale

    def chunks(self, rows: int) -> list[slice]:
        """The rows in chunks whose logits are in memory at once."""
        step = chunk_rows(self.vocab_size)
        return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]

    def teacher(self, targets: Targets, rows: slice) -> tuple[Tensor, Tensor]:
        """The base's logits for some rows, one row for all that have the same, and the index of each row's."""
        at, which = torch.unique_consecutive(targets.teacher_at[rows], return_inverse=True)
        return self(targets.teacher_UD[at]), which


def draft_losses(hidden_TD: Tensor, targets: Targets, head: ScoringHead, weights: Weights) -> tuple[Tensor, Tensor]:
    """The weighted loss, with a gradient to `hidden_TD`, and the sums of w CE, w KL and w TV, float32 [3].

    Losses of weight 0 are not computed; their sum is 0.
    """
    return _DraftLosses.apply(hidden_TD, targets, head, weights)


class _DraftLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_TD: Tensor, targets: Targets, head: ScoringHead, weights: Weights):
        gradient_TD = torch.empty_like(hidden_TD)
        sums = hidden_TD.new_zeros(3, dtype=torch.float32)
        for rows in head.chunks(len(hidden_TD)):
            with torch.enable_grad():
                own_TD = hidden_TD[rows].detach().requires_grad_()
                logits_TV = head(own_TD)
            teacher = head.teacher(targets, rows) if weights.needs_teacher else None
            d_logits_TV = logits_TV.detach()
            sums += _score(d_logits_TV, teacher, targets.tokens[rows], targets.weight[rows], weights)
            (gradient_TD[rows],) = torch.autograd.grad(logits_TV, own_TD, d_logits_TV)
        ctx.save_for_backward(gradient_TD)
        ctx.mark_non_differentiable(sums)
        # No matrix product: autocast would round the loss to bfloat16.
        return (sums * sums.new_tensor([weights.ce, weights.kl, weights.tv])).sum(), sums

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor | None):
        (gradient_TD,) = ctx.saved_tensors
        return gradient_TD * gradient, None, None, None


def _score(
    logits_TV: Tensor, teacher: tuple[Tensor, Tensor] | None, tokens_T: Tensor, weight_T: Tensor, weights: Weights
) -> Tensor:
    """The three weighted sums [3]. Replaces the logits by the gradient of the weighted loss with respect to them."""
    rows, vocab_size = logits_TV.shape
    step = rows if logits_TV.is_cuda else max(1, _CACHED_BYTES // (4 * vocab_size))
    log_p_UV = None if teacher is None else F.log_softmax(teacher[0], dim=-1)
    sums = logits_TV.new_zeros(3)
    for first in range(0, rows, step):
        own = slice(first, min(first + step, rows))
        log_p_TV = None if teacher is None else log_p_UV[teacher[1][own]]
        sums += _score_rows(logits_TV[own], log_p_TV, tokens_T[own], weight_T[own], weights)
    return sums


def _score_rows(
    logits_TV: Tensor, log_p_TV: Tensor | None, tokens_T: Tensor, weight_T: Tensor, weights: Weights
) -> Tensor:
    """As `_score`, for a few rows and the base's log probabilities."""
    log_q_TV = F.log_softmax(logits_TV, dim=-1)
    q_TV = log_q_TV.exp()
    gradient_TV = torch.mul(q_TV, weights.ce + weights.kl, out=logits_TV)
    gradient_TV[torch.arange(len(tokens_T), device=tokens_T.device), tokens_T] -= weights.ce
    sums = logits_TV.new_zeros(3)
    sums[0] = -(weight_T * log_q_TV.gather(1, tokens_T[:, None])[:, 0]).sum()
    if log_p_TV is not None:
        p_TV = log_p_TV.exp()
        if weights.kl:
            sums[1] = (weight_T * (p_TV * (log_p_TV - log_q_TV)).sum(dim=1)).sum()
            gradient_TV.sub_(p_TV, alpha=weights.kl)
        if weights.tv:
            # Of sum min(p, q), only the tokens with q < p depend on q; d q_i / d z_j = q_i (1[i = j] - q_j).
            below_TV = q_TV * (q_TV < p_TV)
            share_T1 = below_TV.sum(dim=1, keepdim=True)
            sums[2] = (weight_T * (1 - torch.minimum(p_TV, q_TV).sum(dim=1))).sum()
            gradient_TV.addcmul_(q_TV, share_T1, value=weights.tv).sub_(below_TV, alpha=weights.tv)
    gradient_TV.mul_(weight_T[:, None])
    return sums
