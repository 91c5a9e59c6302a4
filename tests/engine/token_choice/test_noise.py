"""The sampling noise: Gumbel, and the search through its hashes finds the argmax over the whole vocabulary."""

import math

import numpy as np
import pytest
import torch

from nbdiff_engine.token_choice import noise
from nbdiff_engine.token_choice.noise import (
    argmax_with_noise,
    gumbel,
    noise_key,
    small_hashes,
    small_hashes_on_device,
)


def test_gumbel_noise_is_gumbel():
    keys = torch.tensor([noise_key(0, 0, position) for position in range(400)])[:, None]
    noise = gumbel(keys, torch.arange(500)[None]).double()
    assert noise.isfinite().all()
    assert abs(noise.mean().item() - 0.5772) < 0.01
    assert abs(noise.var().item() - math.pi**2 / 6) < 0.02
    below = [(noise < level).double().mean().item() for level in (-1.0, 0.0, 1.0, 3.0)]
    assert below == pytest.approx([math.exp(-math.exp(-level)) for level in (-1.0, 0.0, 1.0, 3.0)], abs=0.004)
    # Neighbouring keys and neighbouring tokens are uncorrelated.
    centred = noise - noise.mean()
    for one, other in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        assert abs((one * other).mean() / noise.var()) < 0.01


def over_the_whole_vocabulary(scores: torch.Tensor, keys: list[int]) -> torch.Tensor:
    """The definition: the noise of every token."""
    tokens = torch.arange(scores.shape[1])[None]
    return (scores + gumbel(torch.tensor(keys)[:, None], tokens)).argmax(dim=-1)


def scores_of(spread: float, vocabulary: int, seed: int) -> torch.Tensor:
    """Scores of 12 positions: plain, far below zero, with one certain token, with excluded tokens, and tied ones."""
    scores = torch.randn(12, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread
    scores[1] -= 5_000
    scores[2, vocabulary // 3] += 40 * spread
    scores[3, ::2] = -torch.inf
    scores[4, 5:] = -torch.inf
    scores[5] = 0.0
    scores[6] = -torch.inf
    scores[6, vocabulary - 1] = 1.0
    return scores


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 10.0, 1_000.0, 1e6])
@pytest.mark.parametrize("vocabulary", [7, 700, 30_011])
@pytest.mark.parametrize("first", ["near", "best"])
def test_the_search_finds_the_argmax_over_the_whole_vocabulary(spread, vocabulary, first, monkeypatch):
    monkeypatch.setattr(noise, "_SMALL", 0)
    if first == "best":  # as on another device
        monkeypatch.setattr(noise, "_near", noise._best)
        monkeypatch.setattr(noise, "small_hashes", small_hashes_on_device)
    for seed in range(6 if vocabulary < 1_000 else 1):
        scores = scores_of(spread, vocabulary, seed)
        keys = [noise_key(seed, row, 5) for row in range(len(scores))]
        assert torch.equal(argmax_with_noise(scores, keys), over_the_whole_vocabulary(scores, keys))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_give_what_the_definition_gives(odd, monkeypatch):
    monkeypatch.setattr(noise, "_SMALL", 0)
    scores = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    scores[1] = odd
    keys = [noise_key(0, row, 0) for row in range(3)]
    assert torch.equal(argmax_with_noise(scores, keys), over_the_whole_vocabulary(scores, keys))


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_few_logarithms_are_computed(spread, monkeypatch):
    counts = []
    monkeypatch.setattr(noise, "gumbel", lambda keys, tokens: (counts.append(len(tokens)), gumbel(keys, tokens))[1])
    scores = torch.randn(8, 50_000, generator=torch.Generator().manual_seed(1)) * spread
    argmax_with_noise(scores, [noise_key(1, row, 2) for row in range(8)])
    assert 8 <= sum(counts) < 0.03 * scores.numel()


def test_the_search_on_a_device_is_the_search_on_the_cpu(monkeypatch):
    monkeypatch.setattr(noise, "_DEVICE_CHUNK", 2 * 3_000)  # two rows at a time
    monkeypatch.setattr(noise, "_CHUNK", 700)
    keys = [noise_key(3, row, 1) for row in range(5)]
    limits = [0, 1 << 55, 1 << 63, (1 << 63) + 5, (1 << 64) - 1]
    found = small_hashes(keys, 3_000, limits)
    for one, other in zip(found, small_hashes_on_device(keys, 3_000, limits, torch.device("cpu")), strict=True):
        assert np.array_equal(one, other)
    counts = np.bincount(found[0], minlength=5).tolist()
    assert counts[0] == 0
    assert 0 < counts[1] < 30
    assert 1_300 < counts[2] < 1_700
    assert counts[4] == 3_000


def test_a_hash_of_the_search_is_the_hash_of_the_noise():
    """A token with large noise has a small hash: its leading bits give the noise to 9 digits or more."""
    key = noise_key(0, 0, 0)
    _, tokens, hashes = small_hashes([key], 5_000, [1 << 58])
    u = hashes.astype(np.float64) * 2.0**-64
    exact = gumbel(torch.tensor(key), torch.from_numpy(tokens)).numpy()
    assert len(tokens) > 20
    assert np.allclose(-np.log(-np.log1p(-u)), exact, atol=1e-5)
