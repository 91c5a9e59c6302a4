"""Sampling: samples have the right distribution; the noise is a pure function of (seed, row, position, token)."""

import math

import pytest
import torch
from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from nbdiff_engine import BlockModel, generate
from nbdiff_engine.token_choice.noise import noise_key
from nbdiff_engine.token_choice.penalties import Penalties
from nbdiff_engine.token_choice.sampling import ALTERNATIVES, Prediction, Sampler
from tests.tiny import prompt_ids, tiny_model


def chi_square_p(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """P(chi-square at least this large) for observed counts; cells of expectation under 5 are pooled.

    0 if an outcome with expectation 0 was observed.
    """
    if bool((counts[expected == 0] > 0).any()):
        return 0.0
    large = expected >= 5
    observed = torch.cat([counts[large], counts[~large].sum()[None]]).double()
    mean_counts = torch.cat([expected[large], expected[~large].sum()[None]]).double()
    keep = mean_counts > 0
    if int(keep.sum()) == 1:  # only one outcome is possible, and no other was observed
        return 1.0
    statistic = ((observed - mean_counts)[keep] ** 2 / mean_counts[keep]).sum()
    return float(torch.special.gammaincc(torch.tensor((int(keep.sum()) - 1) / 2.0), statistic.float() / 2))


def draw(logits: torch.Tensor, draws: int, **settings) -> torch.Tensor:
    """Counts [V] of `draws` samples from one distribution."""
    sampler = Sampler(**settings)
    made = sampler.predict(logits.repeat(draws, 1), [0] * draws, list(range(draws)))
    return torch.bincount(torch.tensor(made.tokens), minlength=logits.shape[-1])


LOGITS = torch.randn(1, 20, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_samples_follow_the_tempered_softmax(temperature):
    counts = draw(LOGITS, 20_000, temperature=temperature, seed=11)
    assert chi_square_p(counts, (LOGITS[0] / temperature).softmax(-1) * 20_000) > 0.001


def test_the_statistical_test_can_fail():
    counts = draw(LOGITS, 20_000, temperature=1.0, seed=11)
    assert chi_square_p(counts, (LOGITS[0] / 1.1).softmax(-1) * 20_000) < 1e-6


def test_top_k_samples_only_the_k_best_tokens():
    counts = draw(LOGITS, 5_000, temperature=1.0, top_k=4)
    best = LOGITS[0].topk(4).indices
    expected = torch.zeros(20).index_copy(0, best, LOGITS[0][best].softmax(-1)) * 5_000
    assert set(counts.nonzero()[:, 0].tolist()) <= set(best.tolist())
    assert chi_square_p(counts, expected) > 0.001


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("vocabulary", [20, 3_000])
def test_top_p_samples_only_the_smallest_set_of_that_mass(top_p, vocabulary):
    # 3,000 nearly flat logits: the nucleus has more tokens than the sampler tries first.
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(5)) * (2 if vocabulary == 20 else 0.1)
    ordered, ids = logits[0].softmax(-1).sort(descending=True)
    size = int((ordered.cumsum(0) < top_p).sum()) + 1
    counts = draw(logits, 4_000, temperature=1.0, top_p=top_p)
    assert set(counts.nonzero()[:, 0].tolist()) <= set(ids[:size].tolist())
    expected = torch.zeros(vocabulary).index_copy(0, ids[:size], ordered[:size] / ordered[:size].sum()) * 4_000
    bins = 20  # neighbouring ids share a bin, so that each bin has an expectation of at least 5
    assert chi_square_p(counts.view(bins, -1).sum(1), expected.view(bins, -1).sum(1)) > 0.001


def test_a_sample_depends_on_seed_row_position_and_nothing_else():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(temperature=1.0, seed=4)
    together = sampler.predict(logits.clone(), [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 5, 6]).tokens
    backwards = sampler.predict(logits.flip(0), [2, 2, 1, 1, 0, 0], [6, 5, 1, 0, 1, 0]).tokens
    assert together == backwards[::-1]
    keys = {noise_key(seed, row, position) for seed in range(9) for row in range(9) for position in range(9)}
    assert len(keys) == 9**3


def test_confidence_is_the_plain_probability_at_any_temperature():
    logits = torch.randn(7, 30, generator=torch.Generator().manual_seed(2)) * 2
    for settings in ({}, {"temperature": 0.3}, {"temperature": 2.0, "top_p": 0.5}):
        made = Sampler(**settings).predict(logits.clone(), [0] * 7, list(range(7)))
        plain = logits.softmax(-1)[range(7), made.tokens]
        assert made.confidence == pytest.approx(plain.tolist(), abs=1e-6)


def test_a_forbidden_token_has_no_probability_at_all():
    logits = torch.zeros(1, 4)
    logits[0, 2] = 50.0
    made = Sampler(forbidden=(2,)).predict(logits, [0], [0], needs=("entropy", "margin"))
    assert made.tokens != [2]
    assert made.confidence == pytest.approx([1 / 3])
    assert made.entropy == pytest.approx([math.log(3)])
    assert made.margin == pytest.approx([0.0])


def test_the_margin_is_the_lead_of_the_best_token_even_if_another_was_sampled():
    logits = torch.randn(9, 30, generator=torch.Generator().manual_seed(8)) * 2
    expected = [row[-1] - row[-2] for row in (sorted(each) for each in logits.softmax(-1).tolist())]
    for settings in ({}, {"temperature": 3.0}, {"temperature": 0.5, "top_k": 3}):
        made = Sampler(**settings).predict(logits.clone(), [0] * 9, list(range(9)), needs={"margin"})
        assert made.margin == pytest.approx(expected, abs=1e-6)
        assert made.entropy is None
        assert made.part(2, 5).margin == made.margin[2:5]
    assert Sampler().predict(logits.clone(), [0] * 9, list(range(9))).margin is None


def test_alternatives_are_the_best_other_tokens_in_order():
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(9))
    sampler = Sampler(temperature=3.0)
    made = sampler.predict(logits.clone(), [0] * 5, list(range(5)))
    for row, (token, others) in enumerate(zip(made.tokens, sampler.alternatives(logits, made))):
        order = logits[row].argsort(descending=True).tolist()
        order.remove(token)
        assert [other for other, _ in others] == order[:ALTERNATIVES]
        assert [p for _, p in others] == pytest.approx(logits[row].softmax(-1)[order[:ALTERNATIVES]].tolist(), abs=1e-6)


def test_candidates_are_the_next_best_of_a_greedy_choice():
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(9)) * 4
    bias = Penalties(bias=((7, 50.0),))
    made = Sampler(forbidden=(3,), penalties=bias).predict(
        logits.clone(), [0] * 5, list(range(5)), candidates=4, drafting=[1, 3]
    )
    assert [len(each) for each in made.candidates] == [0, 4, 0, 4, 0]
    assert made.tokens == [7] * 5
    left = logits.clone()
    left[:, [3, 7]] = -torch.inf
    for row in (1, 3):
        order = left[row].argsort(descending=True)[:4]
        assert [token for token, _ in made.candidates[row]] == order.tolist()
        shares = left[row].softmax(-1)[order].tolist()  # of the tokens without the predicted one
        assert [share for _, share in made.candidates[row]] == pytest.approx(shares, rel=0.02)
    assert made.part(3, 5).candidates == made.candidates[3:]


@pytest.mark.parametrize("restricted", [{}, {"top_k": 5}, {"top_p": 0.8}])
def test_candidates_of_a_sample_are_the_next_best_under_the_same_noise(restricted):
    """What would be sampled if the tokens before were not there. With few tokens, all of them are looked at."""
    logits = torch.randn(40, 12, generator=torch.Generator().manual_seed(2))
    sampler = Sampler(temperature=0.8, seed=6, **restricted)

    def made(changed):
        return sampler.predict(changed, [2] * 40, list(range(40)), candidates=2, drafting=range(40))

    first = made(logits.clone())
    for row in range(40):
        if restricted:
            allowed = {token for token, _ in first.candidates[row]} | {first.tokens[row]}
            assert len(allowed) <= 3
            continue
        left = logits.clone()
        for token, _ in first.candidates[row]:
            left[row, first.tokens[row]] = -torch.inf
            assert made(left.clone()).tokens[row] == token
            left[row, token] = -torch.inf
    alone = Sampler(temperature=1.0, top_k=1)
    assert alone.predict(logits.clone(), [0] * 40, list(range(40)), candidates=2, drafting=[0]).candidates[0] == ()
    assert sampler.predict(logits, [0] * 40, list(range(40))).candidates is None


@pytest.mark.parametrize("min_p", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("others", [{}, {"top_k": 12}, {"top_p": 0.9}])
def test_min_p_samples_among_the_tokens_that_transformers_keeps(min_p, others):
    scaled = LOGITS / 0.8
    for name, warper in (("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper)):
        if name in others:
            scaled = warper(others[name])(None, scaled)
    kept = MinPLogitsWarper(min_p)(None, scaled)[0].softmax(-1)
    counts = draw(LOGITS, 4_000, temperature=0.8, min_p=min_p, **others)
    assert set(counts.nonzero()[:, 0].tolist()) <= set(kept.nonzero()[:, 0].tolist())
    assert chi_square_p(counts, kept * 4_000) > 0.001


def test_logprobs_are_those_of_both_distributions():
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(4)) * 2
    for settings in ({}, {"temperature": 0.7}, {"temperature": 1.5, "top_k": 7}, {"temperature": 1.0, "min_p": 0.2}):
        sampler = Sampler(logprobs=3, forbidden=(1,), penalties=Penalties(bias=((5, 3.0),)), **settings)
        made = sampler.predict(logits.clone(), [0] * 6, list(range(6)))
        for row, (token, logs) in enumerate(zip(made.tokens, made.logprobs, strict=True)):
            plain = logits[row].clone()
            plain[1] = -torch.inf
            processed = plain.clone()
            processed[5] += 3.0
            processed = (processed / (settings.get("temperature") or 1.0)).log_softmax(-1)
            if "top_k" in settings:
                processed[processed < processed.topk(7).values[-1]] = -torch.inf
            if "min_p" in settings:
                processed[processed < processed.max() + math.log(0.2)] = -torch.inf
            plain, processed = plain.log_softmax(-1), processed.log_softmax(-1)
            assert (logs.logprob, logs.processed) == pytest.approx(
                (float(plain[token]), float(processed[token])), abs=1e-5
            )
            for found, expected in ((logs.top, plain), (logs.top_processed, processed)):
                order = [each for each in expected.argsort(descending=True).tolist()[:3] if expected[each] > -torch.inf]
                assert [other for other, _ in found] == order
                assert [p for _, p in found] == pytest.approx(expected[order].tolist(), abs=1e-5)


def test_no_logprobs_unless_asked_for():
    assert Sampler().predict(LOGITS.clone(), [0], [0]).logprobs is None
    (own,) = Sampler(logprobs=0).predict(LOGITS.clone(), [0], [0]).logprobs
    assert (own.top, own.top_processed) == ((), ())


def test_penalties_change_the_choice_and_not_the_confidence():
    logits = LOGITS.clone()
    best, second = logits[0].topk(2).indices.tolist()
    made = Sampler(penalties=Penalties(bias=((best, -50.0),))).predict(logits, [0], [0], needs={"margin", "entropy"})
    plain = Sampler().predict(LOGITS.clone(), [0], [0], needs={"margin", "entropy"})
    assert made.tokens == [second]
    assert made.confidence == pytest.approx([float(LOGITS[0].softmax(-1)[second])])
    assert (made.margin, made.entropy) == (plain.margin, plain.entropy)
    assert torch.equal(logits, LOGITS)


def test_no_position_gives_an_empty_prediction():
    assert Sampler().predict(torch.empty(0, 5), [], []) == Prediction([], [])


@pytest.fixture(scope="module")
def small_model() -> BlockModel:
    """A model over a vocabulary of eight, MASK included."""
    return tiny_model("llama", seed=5, vocab_size=8, initializer_range=0.15)


@pytest.mark.slow
def test_sampled_self_speculation_has_ars_distribution(small_model):
    """The joint distribution of two sampled tokens, against the exact AR probabilities."""
    prompt, draws = [2, 5, 3], 3_000
    rows = [prompt] * 250
    counts = torch.zeros(64)
    for seed in range(draws // len(rows)):
        outputs = generate(
            small_model, rows, strategy="self_speculative", block_size=3, temperature=1.0, seed=seed, max_new_tokens=2
        )
        for output in outputs:
            first, second = output.token_ids
            counts[first * 8 + second] += 1

    def probabilities(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = small_model.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        logits[small_model.spec.mask_token_id] = -torch.inf
        return logits.softmax(-1)

    joint = torch.stack([probabilities([*prompt, token]) for token in range(8)]) * probabilities(prompt)[:, None]
    assert chi_square_p(counts, joint.flatten() * draws) > 0.001


def test_prompt_ids_avoid_mask():
    assert 1 not in prompt_ids(1000)
