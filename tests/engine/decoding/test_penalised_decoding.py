"""Penalties, bias, min_p, stop tokens and log-probabilities while decoding: against transformers' `generate`, against
AR for self-speculation, and against a naive decoder for block diffusion."""

from collections import Counter

import pytest
import torch

import nbdiff_engine as nb
from nbdiff_engine.trace.events import FinishReason, logprobs_of
from tests.engine.answers import PROMPTS, ids, without_time
from tests.reference import causal, logits_of
from tests.tiny import FAST_DLLM, MASK, UNSHIFTED, tiny_model

PENALISED = [
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.8},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.6},
    {"logit_bias": {5: 4.0, 9: -100.0}},
    {"repetition_penalty": 1.2, "presence_penalty": -0.5, "frequency_penalty": 0.4, "logit_bias": {7: 2.5, 30: -3.0}},
]
ALL = PENALISED[-1]
SAMPLINGS = [{}, {"temperature": 1.0}, {"temperature": 0.8, "min_p": 0.1}, {"temperature": 1.2, "top_k": 9}]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma"])
@pytest.mark.parametrize("settings", [PENALISED[0], PENALISED[1], PENALISED[4], {**PENALISED[0], **PENALISED[4]}])
def test_greedy_ar_is_generate_of_transformers(family, settings):
    model = tiny_model(family, spec=None)
    bias = [[[token], value] for token, value in settings.get("logit_bias", {}).items()] or None
    for prompt in PROMPTS:
        with torch.no_grad():
            theirs = model.network.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt)),
                max_new_tokens=30,
                do_sample=False,
                repetition_penalty=settings.get("repetition_penalty"),
                sequence_bias=bias,
                suppress_tokens=[MASK],
            )[0, len(prompt) :].tolist()
        assert ids(model, prompt, strategy="ar", max_new_tokens=30, **settings) == theirs


@pytest.mark.parametrize("settings", PENALISED)
def test_each_penalty_changes_the_answer(llama, settings):
    plain = ids(llama, PROMPTS[0], strategy="ar", max_new_tokens=30)
    assert ids(llama, PROMPTS[0], strategy="ar", max_new_tokens=30, **settings) != plain


def assert_self_speculation_is_ar(model, **how):
    how = {"max_new_tokens": 24, "seed": 5, **how}
    ar = ids(model, PROMPTS, strategy="ar", **how)
    for draft in ({"block_size": 5, "draft_backoff": False}, {"block_size": 8, "draft_steps": 2}):
        assert ids(model, PROMPTS, strategy="self_speculative", **draft, **how) == ar
    assert ids(model, PROMPTS[0], strategy="ar", **how) == ar[0]


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        # Every penalty with one sampling, and all together with every one; the other pairs are slow tests.
        pytest.param(settings, sampling, marks=() if settings is ALL or number % 4 == other else pytest.mark.slow)
        for number, settings in enumerate(PENALISED)
        for other, sampling in enumerate(SAMPLINGS)
    ],
)
def test_self_speculation_is_ar_in_a_ragged_batch(llama, settings, sampling):
    assert_self_speculation_is_ar(llama, **settings, **sampling)


@pytest.mark.parametrize(
    "sampling", [pytest.param(each, marks=() if each in SAMPLINGS[1:3] else pytest.mark.slow) for each in SAMPLINGS]
)
def test_self_speculation_with_all_penalties_is_ar_in_every_family(any_model, sampling):
    assert_self_speculation_is_ar(any_model, **ALL, **sampling)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_self_speculation_of_the_trained_checkpoint_is_ar_and_still_accepts(golden_model, golden_cases, sampling):
    prompts = [case["prompt_ids"] for case in golden_cases[:6]]
    how = {"max_new_tokens": 48, "repetition_penalty": 1.1, "frequency_penalty": 0.1, **sampling}
    ar = nb.generate(golden_model, prompts, strategy="ar", **how)
    fast = nb.generate(golden_model, prompts, strategy="self_speculative", block_size=8, **how)
    assert [each.token_ids for each in fast] == [each.token_ids for each in ar]
    assert sum(each.metrics.accepted for each in fast) > 0


def changed(logits: torch.Tensor, prompt: list[int], ids: list[int], settings: dict) -> torch.Tensor:
    """Logits [V] of the position after `ids`, which may hold MASK, changed one token at a time."""
    out = logits.clone()
    for token, bias in settings.get("logit_bias", {}).items():
        out[token] += bias
    penalty = settings.get("repetition_penalty", 1.0)
    for token in {each for each in ids if each != MASK}:
        out[token] = out[token] * penalty if out[token] < 0 else out[token] / penalty
    for token, times in Counter(each for each in ids[len(prompt) :] if each != MASK).items():
        out[token] -= settings.get("presence_penalty", 0.0) + times * settings.get("frequency_penalty", 0.0)
    return out


def naive_block_diffusion(model, prompt, count, size, threshold, settings) -> list[int]:
    """NBDiff's decoding by the confidence rule, with penalties; no cache, no batch."""
    ids = list(prompt)
    while len(ids) - len(prompt) < count:
        start = len(ids)
        last = logits_of(model, ids, causal(start))[-1]
        ids.append(int(changed(last, prompt, ids, settings).argmax()))
        ids += [MASK] * (size - 1)
        allowed = causal(len(ids))
        allowed[start:, start:] = True
        while MASK in ids:
            masked = [i for i, token in enumerate(ids) if token == MASK]
            logits = logits_of(model, ids, allowed)
            tokens = [int(changed(logits[i - 1], prompt, ids[:i], settings).argmax()) for i in masked]
            confidence = [float(logits[i - 1].softmax(-1)[token]) for i, token in zip(masked, tokens)]
            best = max(range(len(masked)), key=confidence.__getitem__)
            for n, (i, token) in enumerate(zip(masked, tokens)):
                if n == best or confidence[n] > threshold:
                    ids[i] = token
    return ids[len(prompt) :][:count]


@pytest.mark.parametrize("settings", PENALISED)
def test_cached_block_diffusion_is_uncached_block_diffusion(any_model, settings):
    for prompt in PROMPTS[:2]:
        decoded = ids(any_model, prompt, block_size=7, threshold=0.5, max_new_tokens=17, **settings)
        assert decoded == naive_block_diffusion(any_model, prompt, 17, 7, 0.5, settings)


@pytest.mark.parametrize("spec", [{}, UNSHIFTED, FAST_DLLM])
def test_a_ragged_batch_of_block_diffusion_is_its_rows_alone(spec):
    model = tiny_model("llama", spec=spec)
    how = {"block_size": 4, "threshold": 0.5, "max_new_tokens": 21, **ALL}
    assert ids(model, PROMPTS, **how) == [ids(model, prompt, **how) for prompt in PROMPTS]


def test_a_fork_counts_what_was_written_before_it(llama):
    how = {"strategy": "ar", "max_new_tokens": 20, **ALL}
    whole = ids(llama, PROMPTS[0], **how)
    start = nb.decoding.start.Start(committed=tuple(whole[:6]), block=(whole[6],))
    (output,) = nb.prepare(llama, PROMPTS[0], start=start, **how).outputs()
    assert output.token_ids == whole


def test_neutral_values_change_no_event(any_model):
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {}}
    for how in ({"strategy": "ar"}, {"block_size": 5}):
        one, other = (
            [without_time(event) for event in nb.stream(any_model, PROMPTS[:2], max_new_tokens=12, **how, **more)]
            for more in ({}, neutral)
        )
        assert one == other


# -- stop tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_a_stop_token_ends_the_answer_and_belongs_to_it(llama, strategy):
    how = {"strategy": strategy, "max_new_tokens": 24}
    whole = ids(llama, PROMPTS[0], **how)
    stop = next(token for at, token in enumerate(whole) if at >= 5 and token not in whole[:at])
    output = nb.generate(llama, PROMPTS[0], stop_token_ids=[stop], **how)
    assert output.token_ids == whole[: whole.index(stop) + 1]
    assert output.finish_reason == FinishReason.STOP_TOKEN
    assert output.trace.events[-1].reason == "stop_token"
    skipping = nb.generate(llama, PROMPTS[0], stop_token_ids=[stop], skip_after_eos=True, **how)
    assert skipping.token_ids[-1] == stop or stop not in skipping.token_ids


def test_the_text_leaves_out_the_stop_token(golden_model, golden_cases):
    prompt = golden_cases[0]["prompt_ids"]
    whole = nb.generate(golden_model, prompt, strategy="ar")
    stop = whole.token_ids[4]
    output = nb.generate(golden_model, prompt, strategy="ar", stop_token_ids=stop)
    assert output.token_ids == whole.token_ids[: whole.token_ids.index(stop) + 1]
    assert output.text == golden_model.tokenizer.decode(output.token_ids[:-1], skip_special_tokens=True)


# -- log-probabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7}])
def test_logprobs_of_ar_are_those_of_one_forward_over_the_answer(llama, sampling):
    settings = {"repetition_penalty": 1.3, **sampling}
    events = list(nb.stream(llama, PROMPTS[0], strategy="ar", max_new_tokens=15, logprobs=4, trace=False, **settings))
    answer = list(events[-1].token_ids)
    whole = PROMPTS[0] + answer
    logits = logits_of(llama, whole, causal(len(whole)))
    for at, (token, logs) in enumerate(zip(answer, logprobs_of(events), strict=True)):
        place = len(PROMPTS[0]) + at
        plain = logits[place - 1].log_softmax(-1)
        processed = changed(logits[place - 1], PROMPTS[0], whole[:place], settings) / sampling.get("temperature", 1.0)
        processed = processed.log_softmax(-1)
        assert logs.logprob == pytest.approx(float(plain[token]), abs=1e-4)
        assert logs.processed == pytest.approx(float(processed[token]), abs=1e-4)
        assert [each for each, _ in logs.top] == plain.topk(4).indices.tolist()
        assert [each for each, _ in logs.top_processed] == processed.topk(4).indices.tolist()


@pytest.mark.parametrize("strategy", ["block_diffusion", "self_speculative"])
def test_every_token_has_logprobs_and_they_agree_with_its_confidence(any_model, strategy):
    events = list(nb.stream(any_model, PROMPTS[1], strategy=strategy, block_size=6, max_new_tokens=20, logprobs=0))
    found = logprobs_of(events)
    assert len(found) == 20
    last = {each.position: each for event in events[:-1] for each in event.fixed}
    for position, logs in enumerate(found):
        assert logs is last[position].logprobs
        assert torch.tensor(logs.logprob).exp() == pytest.approx(last[position].confidence, abs=2e-5)


def test_an_output_has_logprobs_if_they_are_asked_for(llama):
    output = nb.generate(llama, PROMPTS[0], max_new_tokens=9, logprobs=1)
    assert output.logprobs == logprobs_of(output.trace.events)
    assert nb.generate(llama, PROMPTS[0], max_new_tokens=9).logprobs is None


def test_logprobs_survive_a_trace_file(llama, tmp_path):
    trace = nb.generate(llama, PROMPTS[0], max_new_tokens=12, logprobs=2).trace
    trace.save(tmp_path / "trace.json")
    assert logprobs_of(nb.Trace.load(tmp_path / "trace.json").events) == logprobs_of(trace.events)
    bare = nb.generate(llama, PROMPTS[0], max_new_tokens=12).trace
    assert {len(entry) for event in bare.to_json()["events"] if event[0] == "denoise" for entry in event[7]} == {5}
