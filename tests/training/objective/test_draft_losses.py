"""The losses of draft adapters, and the gradient that is computed with them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from training.objective import draft_losses as module
from training.objective.draft_losses import ScoringHead, Targets, Weights, draft_losses

ROWS, SIZE, VOCABULARY = 13, 8, 21


def example():
    torch.manual_seed(0)
    layer = nn.Linear(SIZE, VOCABULARY).requires_grad_(False)
    hidden = torch.randn(ROWS, SIZE, requires_grad=True)
    at = torch.tensor([0, 0, 1, 2, 2, 2, 3, 5, 6, 6, 7, 8, 9])
    targets = Targets(torch.randint(VOCABULARY, (ROWS,)), torch.rand(ROWS), torch.randn(10, SIZE), at)
    return hidden, targets, ScoringHead(layer, 0.5, VOCABULARY)


def by_autograd(hidden, targets, head, weights):
    q = F.log_softmax(head.layer(hidden) * head.scale, dim=-1)
    p = F.softmax(head.layer(targets.teacher_UD[targets.teacher_at]) * head.scale, dim=-1)
    ce = F.nll_loss(q, targets.tokens, reduction="none")
    kl = F.kl_div(q, p, reduction="none").sum(1)
    tv = 1 - torch.minimum(p, q.exp()).sum(1)
    sums = (targets.weight * torch.stack([ce, kl, tv])).sum(1)
    return sums @ torch.tensor([float(weights.ce), float(weights.kl), float(weights.tv)]), sums


@pytest.mark.parametrize("weights", [Weights(1, 0, 0), Weights(0, 1, 0), Weights(0, 0, 1), Weights(0.5, 0.3, 2)])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_losses_and_gradients_are_those_of_autograd(weights, chunk, monkeypatch):
    monkeypatch.setattr(module, "chunk_rows", lambda vocabulary: chunk)
    hidden, targets, head = example()
    loss, sums = draft_losses(hidden, targets, head, weights)
    (2 * loss).backward()
    found, hidden.grad = hidden.grad, None
    expected, parts = by_autograd(hidden, targets, head, weights)
    (2 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, hidden.grad)
    for weight, one, other in zip((1, weights.kl, weights.tv), sums, parts, strict=True):
        torch.testing.assert_close(one, other if weight else torch.zeros(()))


def test_rows_of_one_token_ask_the_teacher_once(monkeypatch):
    seen = []
    hidden, targets, head = example()
    head.layer.register_forward_hook(lambda layer, args, out: seen.append(len(out)))
    draft_losses(hidden, targets, head, Weights(1, 1, 0))
    assert seen == [ROWS, 9]  # nine different tokens in thirteen rows
    seen.clear()
    draft_losses(hidden, targets, head, Weights(1, 0, 0))
    assert seen == [ROWS]


def test_tv_is_one_minus_the_chance_that_a_sampled_draft_is_accepted():
    hidden, targets, head = example()
    _, sums = draft_losses(hidden, targets, head, Weights(0, 0, 1))
    q = F.softmax(head(hidden), dim=-1)
    p = F.softmax(head(targets.teacher_UD[targets.teacher_at]), dim=-1)
    accepted = (q * (p / q).clamp(max=1)).sum(1)
    assert sums[2].item() == pytest.approx((targets.weight * (1 - accepted)).sum().item(), rel=1e-5)
