"""In float32 the strategies match naive references, self-speculation matches AR, and a batch matches its rows."""

from contextlib import nullcontext

import pytest
import torch

import nbdiff_engine as nb
import nbdiff_engine.model.passes as passes
from nbdiff_engine.decoding.loop import decode
from nbdiff_engine.model.kv_cache import SlotCache
from nbdiff_engine.trace.events import Denoise, Finish, Prefill, Reason, Verify
from tests.engine.answers import PROMPTS, ids, without_time
from tests.growing_cache import GrowingCache
from tests.reference import naive_ar, naive_block_causal, naive_block_diffusion
from tests.tiny import FAMILIES, FAST_DLLM, UNSHIFTED, in_part_slow, prompt_ids, tiny_model

# -- against the references -----------------------------------------------------------------------------


def test_ar_matches_naive_ar(any_model):
    for prompt in PROMPTS:
        assert ids(any_model, prompt, strategy="ar", max_new_tokens=24) == naive_ar(any_model, prompt, 24)


@pytest.mark.parametrize(("block_size", "sub_block_size"), [(1, None), (5, None), (8, 3), (16, 4)])
@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_cached_block_diffusion_matches_uncached_block_diffusion(any_model, block_size, sub_block_size, threshold):
    for prompt in PROMPTS[:2]:
        settings = {"block_size": block_size, "sub_block_size": sub_block_size, "threshold": threshold}
        too_large = block_size > any_model.spec.block_size
        with pytest.warns(UserWarning, match="trained for") if too_large else nullcontext():
            decoded = ids(any_model, prompt, max_new_tokens=27, **settings)
        assert decoded == naive_block_diffusion(any_model, prompt, 27, block_size, threshold, sub_block_size)


@pytest.mark.parametrize("family", in_part_slow(FAMILIES))
@pytest.mark.parametrize("block_size", [1, 4, 7])
@pytest.mark.parametrize("shift", [0, 1])
def test_block_causal_checkpoints_on_an_absolute_grid_match_naive_decoding(family, block_size, shift):
    model = tiny_model(family, spec=FAST_DLLM if shift else UNSHIFTED)
    for prompt in PROMPTS:
        decoded = ids(model, prompt, block_size=block_size, threshold=0.6, max_new_tokens=19)
        assert decoded == naive_block_causal(model, prompt, 19, block_size, 0.6, shift)


def test_block_size_one_gives_the_events_of_ar(any_model):
    for prompt in PROMPTS:
        one, ar = (
            [without_time(event) for event in nb.stream(any_model, prompt, max_new_tokens=20, **how)]
            for how in ({"block_size": 1}, {"strategy": "ar"})
        )
        assert one == ar


@pytest.mark.parametrize("settings", [{}, {"strategy": "self_speculative"}, {"strategy": "ar"}])
def test_static_and_growing_cache_give_the_same_tokens(any_model, settings):
    job = nb.prepare(any_model, PROMPTS, max_new_tokens=30, **settings)
    ends = [
        {
            event.row: event.token_ids
            for event in decode(any_model, job.prompts, job.plan, cache)
            if isinstance(event, Finish)
        }
        for cache in (SlotCache, GrowingCache)
    ]
    assert ends[0] == ends[1]


CHOICES = {
    "top_k": lambda probs: probs.max(-1).values.topk(min(2, len(probs))).indices.tolist(),
    "entropy": lambda probs: (
        torch.distributions.Categorical(probs).entropy().topk(min(2, len(probs)), largest=False).indices.tolist()
    ),
    "factor": lambda probs: _most_that_pass(probs.max(-1).values.neg(), lambda n, worst: (n + 1) * (1 + worst) < 1.7),
    "margin": lambda probs: _above_margin(probs.topk(2).values, 0.05),
    "entropy_bound": lambda probs: _within_bound(torch.distributions.Categorical(probs).entropy(), 3.3),
}
POLICY_SETTINGS = {"tokens_per_step": 2, "factor": 1.7, "margin": 0.05, "entropy_bound": 3.3}


def _most_that_pass(values: torch.Tensor, passes) -> list[int]:
    """Indices of the n smallest values, for the largest n that passes; at least one."""
    order = values.argsort().tolist()
    return order[: max([n for n in range(1, len(order) + 1) if passes(n, values[order[n - 1]])], default=1)]


def _above_margin(best: torch.Tensor, margin: float) -> list[int]:
    lead = best[:, 0] - best[:, 1]
    return [i for i in range(len(lead)) if lead[i] > margin] or [int(lead.argmax())]


def _within_bound(entropy: torch.Tensor, bound: float) -> list[int]:
    order = entropy.argsort().tolist()
    return [index for n, index in enumerate(order) if entropy[order[:n]].sum() <= bound]


@pytest.mark.parametrize("unmasking", CHOICES)
def test_cached_decoding_by_the_other_policies_matches_uncached_decoding(any_model, unmasking):
    settings = {"block_size": 7, "sub_block_size": 4, "unmasking": unmasking, **POLICY_SETTINGS}
    for prompt in PROMPTS[:2]:
        decoded = ids(any_model, prompt, max_new_tokens=17, **settings)
        assert decoded == naive_block_diffusion(any_model, prompt, 17, 7, CHOICES[unmasking], 4)


def test_cached_decoding_by_fixed_steps_matches_uncached_decoding(any_model):
    def two_steps():
        """Half of a sub-block's masks, rounded up, then the rest."""
        left = 0
        while True:
            probs = yield
            count = left or -(-len(probs) // 2)
            left = len(probs) - count
            yield probs.max(-1).values.topk(count).indices.tolist()

    rule = two_steps()
    settings = {"block_size": 7, "sub_block_size": 4, "unmasking": "fixed_steps", "steps_per_block": 2}
    decoded = ids(any_model, PROMPTS[0], max_new_tokens=17, **settings)
    assert decoded == naive_block_diffusion(any_model, PROMPTS[0], 17, 7, lambda p: (next(rule), rule.send(p))[1], 4)


@pytest.mark.parametrize("shared_width", [2, 64])  # 2: rows that decode and rows that read have their own forwards
@pytest.mark.parametrize("spec", [{}, UNSHIFTED, FAST_DLLM, {"block_grid": "absolute"}])
def test_long_and_short_prompts_in_a_batch_match_each_prompt_alone(spec, shared_width, monkeypatch):
    monkeypatch.setattr(passes, "PREFILL_CHUNK", 8)
    monkeypatch.setattr(passes, "SHARED_WIDTH", shared_width)
    model = tiny_model("llama", spec=spec)
    prompts = [prompt_ids(length, seed=length) for length in (30, 3, 17, 8)]
    batch = ids(model, prompts, block_size=5, threshold=0.5, max_new_tokens=22)
    monkeypatch.undo()
    assert batch == [ids(model, prompt, block_size=5, threshold=0.5, max_new_tokens=22) for prompt in prompts]


def test_every_chunk_of_a_long_prompt_gives_an_event(llama, monkeypatch):
    monkeypatch.setattr(passes, "PREFILL_CHUNK", 8)
    events = list(nb.stream(llama, prompt_ids(30), strategy="ar", max_new_tokens=3))
    assert [event.prompt_tokens for event in events if isinstance(event, Prefill)] == [8, 16, 24, 30]
    assert [len(event.fixed) for event in events if isinstance(event, Prefill)] == [0, 0, 0, 1]


# -- losslessness ---------------------------------------------------------------------------------------

DRAFTS = [
    {"draft_steps": 1},
    {"draft_steps": 3, "unmasking": "confidence", "threshold": 0.3},
    {"draft_steps": 2, "unmasking": "top_k", "tokens_per_step": 2},
    {"draft_steps": 4, "unmasking": "entropy"},
]


@pytest.fixture(scope="module")
def answers_of_ar(any_model) -> list[list[int]]:
    return ids(any_model, PROMPTS, strategy="ar", max_new_tokens=30)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("block_size", [1, 2, 5, 8])
def test_greedy_self_speculation_matches_greedy_ar(any_model, answers_of_ar, block_size, draft):
    how = {"strategy": "self_speculative", "block_size": block_size, "max_new_tokens": 30, **draft}
    assert ids(any_model, PROMPTS, **how) == answers_of_ar


@pytest.mark.parametrize("block_size", [2, 4, 8, 16, 32])
def test_self_speculation_on_the_trained_checkpoint_matches_ar_and_accepts_drafts(
    golden_model, golden_cases, block_size
):
    prompts = [case["prompt_ids"] for case in golden_cases]
    ar = nb.generate(golden_model, prompts, strategy="ar", max_new_tokens=96)
    fast = nb.generate(golden_model, prompts, strategy="self_speculative", block_size=block_size, max_new_tokens=96)
    assert [each.token_ids for each in fast] == [each.token_ids for each in ar]
    assert [each.text for each in fast] == [each.text for each in ar]
    assert sum(each.metrics.accepted for each in fast) > 0
    if block_size >= 4:  # at 2, two forwards give at most two tokens, as AR does
        assert sum(each.metrics.decode_forwards for each in fast) < sum(each.metrics.decode_forwards for each in ar)


SAMPLINGS = [
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 1.0, "top_k": 20, "top_p": 0.8},
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_sampled_self_speculation_matches_sampled_ar_for_each_seed(golden_model, golden_cases, sampling):
    for seed in range(8):
        prompt = golden_cases[seed]["prompt_ids"]
        common = {"seed": seed, "max_new_tokens": 48, **sampling}
        ar = ids(golden_model, prompt, strategy="ar", **common)
        assert ids(golden_model, prompt, strategy="self_speculative", block_size=8, **common) == ar
        assert ids(golden_model, prompt, strategy="self_speculative", block_size=5, draft_steps=2, **common) == ar


@pytest.mark.parametrize("sampling", SAMPLINGS[:2])
def test_sampled_self_speculation_matches_sampled_ar_in_every_family(any_model, sampling):
    for seed in range(2):
        common = {"seed": seed, "max_new_tokens": 16, **sampling}
        ar = ids(any_model, PROMPTS, strategy="ar", **common)
        assert ids(any_model, PROMPTS, strategy="self_speculative", block_size=6, **common) == ar


def test_every_draft_is_accepted_or_rejected(golden_model, golden_cases):
    for case in golden_cases[:12]:
        events = list(
            nb.stream(golden_model, case["prompt_ids"], strategy="self_speculative", block_size=8, max_new_tokens=64)
        )
        for draft, verdict in zip(events[1:-1:2], events[2:-1:2]):
            assert isinstance(draft, Denoise)
            assert isinstance(verdict, Verify)
            assert (draft.start, draft.stop) == (verdict.start, verdict.stop)
            assert {fixed.reason for fixed in draft.fixed} == {Reason.DRAFT}
            assert verdict.accepted + len(verdict.rejected) == len(draft.fixed)
            drafted = {each.position: each.token for each in draft.fixed}
            accepted, following = verdict.fixed[: verdict.accepted], verdict.fixed[verdict.accepted :]
            assert all(each.reason == Reason.ACCEPTED_DRAFT for each in accepted)
            assert all(drafted[each.position] == each.token for each in accepted)
            assert len(following) == 1 or verdict is events[-2]  # none if an accepted draft ended the answer
            if following and verdict.rejected:
                assert following[0].reason == Reason.CORRECTION
                assert following[0].position == verdict.rejected[0]
                assert following[0].token != drafted[verdict.rejected[0]]


# -- batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "ar"},
        {"block_size": 8, "threshold": 0.4},
        {"block_size": 8, "sub_block_size": 3, "threshold": 0.4},
        {"block_size": 5, "unmasking": "top_k", "tokens_per_step": 2},
        {"block_size": 5, "unmasking": "entropy"},
        {"strategy": "self_speculative", "block_size": 6},
        {"strategy": "self_speculative", "block_size": 6, "draft_steps": 2},
    ],
)
def test_a_ragged_batch_matches_its_rows_decoded_alone(any_model, settings):
    batch = nb.generate(any_model, PROMPTS, max_new_tokens=25, **settings)
    alone = [nb.generate(any_model, prompt, max_new_tokens=25, **settings) for prompt in PROMPTS]
    for together, single in zip(batch, alone, strict=True):
        assert together.token_ids == single.token_ids
        assert together.metrics.decode_forwards == single.metrics.decode_forwards
        assert together.metrics.tokens_per_forward == single.metrics.tokens_per_forward


def test_rows_of_a_batch_end_independently(golden_model, golden_cases):
    prompts = [case["prompt_ids"] for case in golden_cases[:8]]
    batch = nb.generate(golden_model, prompts, block_size=16, max_new_tokens=96)
    alone = [nb.generate(golden_model, prompt, block_size=16, max_new_tokens=96) for prompt in prompts]
    assert len({len(each.token_ids) for each in batch}) > 1
    assert [each.token_ids for each in batch] == [each.token_ids for each in alone]
    assert [each.metrics.decode_forwards for each in batch] == [each.metrics.decode_forwards for each in alone]


def test_an_unshifted_batch_matches_its_rows_decoded_alone():
    model = tiny_model("qwen3", spec=UNSHIFTED)
    batch = ids(model, PROMPTS, block_size=4, threshold=0.5, max_new_tokens=21)
    assert batch == [ids(model, prompt, block_size=4, threshold=0.5, max_new_tokens=21) for prompt in PROMPTS]


def test_sampled_rows_of_a_batch_differ_and_the_first_matches_the_row_alone(llama):
    batch = ids(llama, [PROMPTS[0]] * 4, strategy="ar", temperature=2.0, max_new_tokens=20)
    assert len({tuple(row) for row in batch}) == 4
    assert batch[0] == ids(llama, PROMPTS[0], strategy="ar", temperature=2.0, max_new_tokens=20)
