"""Every policy against a naive reference, on random predictions."""

import random

import pytest
import torch

from nbdiff_engine.events import Reason
from nbdiff_engine.sampling import Prediction, Sampler
from nbdiff_engine.unmasking import POLICIES, ConfidenceThreshold, LowestEntropy, TopK


def prediction(count: int, seed: int) -> tuple[Prediction, torch.Tensor]:
    """A prediction for `count` positions, and the probabilities it was made from."""
    logits = torch.randn(count, 30, generator=torch.Generator().manual_seed(seed)) * 3
    made = Sampler().predict(logits.clone(), [0] * count, list(range(count)), with_entropy=True)
    return made, logits.softmax(-1)


CASES = [(random.Random(seed).randint(1, 32), seed) for seed in range(40)]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 1.0])
def test_confidence_threshold_fixes_the_best_and_all_above_the_threshold(threshold):
    for count, seed in CASES:
        made, probs = prediction(count, seed)
        confidence = probs.max(-1).values
        expected = {i for i in range(count) if confidence[i] > threshold} | {int(confidence.argmax())}
        chosen = ConfidenceThreshold(threshold).select(made)
        assert set(chosen) == expected
        for index, reason in chosen.items():
            over = bool(confidence[index] > threshold)
            assert reason == (Reason.OVER_THRESHOLD if over else Reason.MOST_CONFIDENT)


def test_the_threshold_itself_is_not_above_the_threshold():
    made = Prediction(tokens=[4, 5, 6], confidence=[0.5, 0.9, 0.95])
    assert set(ConfidenceThreshold(0.9).select(made)) == {2}


@pytest.mark.parametrize("tokens_per_step", [1, 2, 7])
def test_top_k_fixes_the_k_most_confident(tokens_per_step):
    for count, seed in CASES:
        made, probs = prediction(count, seed)
        expected = probs.max(-1).values.topk(min(tokens_per_step, count)).indices.tolist()
        assert TopK(tokens_per_step).select(made) == dict.fromkeys(expected, Reason.TOP_K)


@pytest.mark.parametrize("tokens_per_step", [1, 2, 7])
def test_entropy_fixes_the_k_positions_of_least_entropy(tokens_per_step):
    for count, seed in CASES:
        made, probs = prediction(count, seed)
        entropy = torch.distributions.Categorical(probs).entropy()
        expected = entropy.topk(min(tokens_per_step, count), largest=False).indices.tolist()
        assert LowestEntropy(tokens_per_step).select(made) == dict.fromkeys(expected, Reason.LOWEST_ENTROPY)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_makes_progress(name):
    for count, seed in CASES:
        made, _ = prediction(count, seed)
        chosen = POLICIES[name](1.0, 1).select(made)
        assert chosen
        assert all(0 <= index < count for index in chosen)
