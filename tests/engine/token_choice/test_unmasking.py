"""Every policy against a naive reference on random predictions, and the table of policies."""

import json
import random
from itertools import combinations
from typing import get_args

import pytest
import torch

from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.token_choice.sampling import Prediction, Sampler
from nbdiff_engine.token_choice.unmasking import POLICIES, PolicyName
from nbdiff_engine.trace.events import Reason


def prediction(count: int, seed: int) -> tuple[Prediction, torch.Tensor]:
    """A prediction for `count` positions, and the probabilities it was made from."""
    logits = torch.randn(count, 30, generator=torch.Generator().manual_seed(seed)) * 3
    made = Sampler().predict(logits.clone(), [0] * count, list(range(count)), {"entropy", "margin"})
    return made, logits.softmax(-1)


def select(name: str, made: Prediction, step: int, value: float) -> dict[int, Reason]:
    return POLICIES[name].select(made, step, value)


CASES = [(random.Random(seed).randint(1, 32), seed) for seed in range(40)]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9, 1.0])
def test_confidence_threshold_fixes_the_best_and_all_above_the_threshold(threshold):
    for count, seed in CASES:
        made, probs = prediction(count, seed)
        confidence = probs.max(-1).values
        expected = {i for i in range(count) if confidence[i] > threshold} | {int(confidence.argmax())}
        chosen = select("confidence", made, 0, threshold)
        assert set(chosen) == expected
        for index, reason in chosen.items():
            above = bool(confidence[index] > threshold)
            assert reason == (Reason.OVER_THRESHOLD if above else Reason.MOST_CONFIDENT)


def test_the_threshold_itself_is_not_above_the_threshold():
    made = Prediction(tokens=[4, 5, 6], confidence=[0.5, 0.9, 0.95])
    assert set(select("confidence", made, 0, 0.9)) == {2}


@pytest.mark.parametrize("tokens_per_step", [1, 2, 7])
def test_top_k_fixes_the_k_most_confident(tokens_per_step):
    for count, seed in CASES:
        made, probs = prediction(count, seed)
        expected = probs.max(-1).values.topk(min(tokens_per_step, count)).indices.tolist()
        assert select("top_k", made, 0, tokens_per_step) == dict.fromkeys(expected, Reason.TOP_K)


@pytest.mark.parametrize("tokens_per_step", [1, 2, 7])
def test_entropy_fixes_the_k_positions_of_least_entropy(tokens_per_step):
    for count, seed in CASES:
        made, probs = prediction(count, seed)
        entropy = torch.distributions.Categorical(probs).entropy()
        expected = entropy.topk(min(tokens_per_step, count), largest=False).indices.tolist()
        assert select("entropy", made, 0, tokens_per_step) == dict.fromkeys(expected, Reason.LOWEST_ENTROPY)


@pytest.mark.parametrize("factor", [0.01, 0.3, 1.0, 3.0, 40.0])
def test_the_factor_rule_fixes_the_largest_group_that_passes(factor):
    """Reference: try every number of most confident positions and keep the largest that passes."""
    for count, seed in CASES:
        made, probs = prediction(count, seed)
        confidence = probs.max(-1).values.double()
        order = confidence.argsort(descending=True).tolist()
        sizes = [n for n in range(1, count + 1) if (n + 1) * (1 - float(confidence[order[n - 1]])) < factor]
        chosen = select("factor", made, 0, factor)
        assert set(chosen) == set(order[: max(sizes, default=1)])
        assert set(chosen.values()) == {Reason.OVER_FACTOR if sizes else Reason.MOST_CONFIDENT}


@pytest.mark.parametrize("margin", [0.05, 0.3, 0.8, 1.0])
def test_the_margin_rule_fixes_positions_with_a_larger_margin(margin):
    for count, seed in CASES:
        made, probs = prediction(count, seed)
        leads = []
        for row in probs.tolist():
            best = max(row)
            row.remove(best)
            leads.append(best - max(row))
        above = {index for index, lead in enumerate(leads) if lead > margin}
        chosen = select("margin", made, 0, margin)
        assert set(chosen) == (above or {leads.index(max(leads))})
        assert set(chosen.values()) == {Reason.OVER_MARGIN if above else Reason.MOST_CONFIDENT}


@pytest.mark.parametrize("bound", [0.0, 0.1, 0.7, 5.0, 1000.0])
def test_the_entropy_bound_fixes_the_largest_set_within_it(bound):
    """Reference: the largest of all sets whose sum of entropies minus its largest entropy is at most the bound."""
    for count, seed in CASES:
        count = min(count, 9)  # all subsets are tried
        made, probs = prediction(count, seed)
        entropy = torch.distributions.Categorical(probs).entropy().tolist()

        def spent(subset, entropy=entropy):
            return sum(entropy[i] for i in subset) - max(entropy[i] for i in subset)

        size = max(n for n in range(1, count + 1) if min(map(spent, combinations(range(count), n))) <= bound)
        least = sorted(range(count), key=entropy.__getitem__)[:size]
        assert select("entropy_bound", made, 0, bound) == dict.fromkeys(least, Reason.WITHIN_ENTROPY_BOUND)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 40])
def test_fixed_steps_end_after_that_number_of_passes_of_even_size(steps):
    for count, seed in CASES:
        left, sizes = list(range(count)), []
        made, _ = prediction(count, seed)
        while left:
            part = Prediction([made.tokens[i] for i in left], [made.confidence[i] for i in left])
            chosen = select("fixed_steps", part, len(sizes), steps)
            best = sorted(range(len(left)), key=lambda i: -part.confidence[i])[: len(chosen)]
            assert chosen == dict.fromkeys(best, Reason.SCHEDULED)
            sizes.append(len(chosen))
            left = [position for i, position in enumerate(left) if i not in chosen]
        assert len(sizes) == min(steps, count)
        assert max(sizes) - min(sizes) <= 1


def test_of_equally_confident_positions_the_leftmost_are_fixed():
    made = Prediction([1, 2, 3, 4], [0.5] * 4, [0.7] * 4, [0.1] * 4)
    for policy in ("top_k", "entropy", "fixed_steps"):
        assert list(select(policy, made, 0, 2)) == [0, 1]
    for policy, value in (("confidence", 0.9), ("factor", 0.1), ("margin", 0.9), ("entropy_bound", 0.0)):
        assert list(select(policy, made, 0, value)) == [0]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_makes_progress(name):
    settings = DecodeSettings.of(unmasking=name, threshold=1.0, factor=1e-9, margin=1.0, entropy_bound=0)
    for count, seed in CASES:
        made, _ = prediction(count, seed)
        chosen = select(name, made, 0, getattr(settings, POLICIES[name].setting))
        assert chosen
        assert all(0 <= index < count for index in chosen)


def test_the_table_is_complete_and_converts_to_json():
    assert get_args(PolicyName) == tuple(POLICIES)
    for name, policy in POLICIES.items():
        assert policy.name == name
        assert policy.setting in DecodeSettings.model_fields
        assert policy.needs <= {"entropy", "margin"}
        assert policy.rule.endswith(".")
        as_json = json.loads(json.dumps(policy.to_json()))
        assert (as_json["name"], as_json["label"], as_json["setting"]) == (name, policy.label, policy.setting)
        assert "select" not in as_json
    assert POLICIES["confidence"].describe(0.9) == "threshold 0.9"
    assert POLICIES["top_k"].describe(2) == "2 most confident a step"


def test_the_needs_of_a_policy_are_what_it_reads():
    """A policy chooses the same positions without the values that are not in its `needs`."""
    made, _ = prediction(12, 3)
    for name, policy in POLICIES.items():
        bare = Prediction(
            made.tokens,
            made.confidence,
            made.entropy if "entropy" in policy.needs else None,
            made.margin if "margin" in policy.needs else None,
        )
        value = getattr(DecodeSettings.of(threshold=0.5), policy.setting)
        assert select(name, bare, 0, value) == select(name, made, 0, value)
