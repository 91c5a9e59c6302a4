"""How an answer ends, how a seed repeats it, and slow, closed or concurrent streams."""

import gc
from types import SimpleNamespace

import pytest
import torch

import nbdiff_engine as nb
from nbdiff_engine.decoding import batch
from nbdiff_engine.model.kv_cache import SlotCache
from nbdiff_engine.model.session import Session
from nbdiff_engine.trace.events import Commit, Finish, FinishReason, Prefill
from tests.engine.answers import PROMPTS, ids
from tests.reference import naive_block_diffusion
from tests.tiny import MASK, prompt_ids, tiny_model


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_the_same_seed_repeats_an_answer_and_another_does_not(llama, strategy):
    first, again, other = (
        ids(llama, PROMPTS[0], strategy=strategy, temperature=2.0, max_new_tokens=40, seed=seed) for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_larger_limit_keeps_the_prefix(any_model, strategy, temperature):
    longest = ids(any_model, PROMPTS[0], strategy=strategy, temperature=temperature, max_new_tokens=40)
    assert len(longest) == 40
    for limit in (1, 2, 7, 8, 9, 23):
        settings = {"strategy": strategy, "temperature": temperature, "max_new_tokens": limit}
        assert ids(any_model, PROMPTS[0], **settings) == longest[:limit]


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_tracing_changes_no_token(any_model, strategy):
    traced, plain = (
        nb.generate(any_model, PROMPTS[0], strategy=strategy, threshold=0.5, max_new_tokens=40, trace=trace)
        for trace in (True, False)
    )
    assert traced.token_ids == plain.token_ids
    assert plain.trace is None
    assert traced.trace.token_ids == tuple(plain.token_ids)


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_the_answer_ends_with_the_context(llama, strategy):
    prompt = prompt_ids(llama.context_length - 11)
    output = nb.generate(llama, prompt, strategy=strategy, max_new_tokens=500)
    assert len(output.token_ids) == 11
    assert output.finish_reason == FinishReason.LENGTH


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_nothing_follows_the_eos(golden_model, golden_cases, strategy):
    ended = 0
    for case in golden_cases[:16]:
        output = nb.generate(golden_model, case["prompt_ids"], strategy=strategy, max_new_tokens=96)
        if output.finish_reason == FinishReason.EOS:
            ended += 1
            assert output.token_ids.index(0) == len(output.token_ids) - 1
        assert MASK not in output.token_ids
    assert ended > 8


@pytest.mark.parametrize(("block_size", "sub_block_size"), [(8, None), (32, None), (32, 8)])
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_positions_after_an_early_eos_can_stay_masked(block_size, sub_block_size, threshold):
    model = tiny_model("llama", spec={"block_size": 32})
    settings = {"block_size": block_size, "sub_block_size": sub_block_size, "threshold": threshold}
    early = 0
    for prompt in PROMPTS:
        model.__dict__["eos_token_ids"] = frozenset()
        eos = ids(model, prompt, max_new_tokens=block_size, **settings)[block_size // 2]
        model.__dict__["eos_token_ids"] = frozenset({eos})
        whole, skipping = (
            nb.generate(model, prompt, max_new_tokens=96, skip_after_eos=skip, **settings) for skip in (False, True)
        )
        expected = naive_block_diffusion(model, prompt, 96, block_size, threshold, sub_block_size, skip_after=eos)
        assert skipping.token_ids == expected
        if len(whole.token_ids) == len(skipping.token_ids):
            early += whole.metrics.decode_forwards - skipping.metrics.decode_forwards
    assert sub_block_size or early > 0  # skipping saves forwards


def test_skip_after_eos_must_be_true_or_false():
    with pytest.raises(nb.SettingError, match="skip_after_eos"):
        nb.prepare(tiny_model("llama"), [2, 3], skip_after_eos="maybe")


def test_ignoring_the_eos_gives_max_new_tokens(golden_model):
    output = nb.generate(golden_model, "What is the capital of Peru?", ignore_eos=True, max_new_tokens=77)
    assert len(output.token_ids) == 77
    assert 0 in output.token_ids


def test_mask_is_never_predicted_even_with_the_largest_logit(llama):
    with torch.no_grad():
        network = tiny_model("llama").network
        head = network.get_output_embeddings()
        head.weight[MASK] = head.weight.abs().sum(dim=0) * 10
    model = nb.BlockModel(network, None, llama.spec, "wants-mask")
    for strategy in ("ar", "block_diffusion", "self_speculative"):
        for temperature in (0.0, 1.5):
            settings = {"strategy": strategy, "temperature": temperature, "max_new_tokens": 30}
            assert MASK not in ids(model, PROMPTS[1], **settings)


def test_event_times_never_go_back_and_end_in_one_finish(any_model):
    for strategy in ("ar", "block_diffusion", "self_speculative"):
        events = list(nb.stream(any_model, PROMPTS[0], strategy=strategy, max_new_tokens=30))
        times = [event.time for event in events]
        assert times == sorted(times)
        assert isinstance(events[0], Prefill)
        assert [type(event) for event in events].count(Finish) == 1
        assert isinstance(events[-1], Finish)


def test_a_slow_reader_does_not_change_the_times_of_events(llama, monkeypatch):
    now = 0.0
    forward = Session._forward

    def one_second_forward(*args):
        nonlocal now
        now += 1
        return forward(*args)

    monkeypatch.setattr(Session, "_forward", one_second_forward)
    monkeypatch.setattr(batch, "time", SimpleNamespace(perf_counter=lambda: now))
    times = []
    for event in nb.stream(llama, PROMPTS[0], strategy="ar", max_new_tokens=20):
        times.append(event.time)
        now += 100  # seconds that the reader takes
    assert times == [*range(1, 21), 20]  # the prefill, nineteen commits, and the finish, which needs no forward


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_a_closed_stream_stops_within_one_forward_and_leaves_the_model_ready(llama, strategy, monkeypatch):
    forwards = []
    forward = Session._forward
    monkeypatch.setattr(Session, "_forward", lambda *args: forwards.append(1) or forward(*args))
    before = ids(llama, PROMPTS[0], strategy=strategy, max_new_tokens=30)
    forwards.clear()
    stream = nb.stream(llama, PROMPTS[0], strategy=strategy, max_new_tokens=30)
    for count, _ in enumerate(stream, start=1):
        if count == 3:
            break
    stream.close()
    assert len(forwards) == 3
    assert ids(llama, PROMPTS[0], strategy=strategy, max_new_tokens=30) == before


def test_no_cache_stays_in_memory_after_a_call(llama):
    gc.collect()
    gc.disable()
    try:
        for strategy in ("ar", "block_diffusion", "self_speculative"):
            nb.generate(llama, PROMPTS, strategy=strategy, max_new_tokens=20)
            stream = nb.stream(llama, PROMPTS[0], strategy=strategy, max_new_tokens=20)
            next(stream)
            stream.close()
        del stream
        assert not [each for each in gc.get_objects() if type(each) is SlotCache]
    finally:
        gc.enable()


def test_two_streams_of_one_model_are_independent(llama):
    one = nb.stream(llama, PROMPTS[0], max_new_tokens=30)
    two = nb.stream(llama, PROMPTS[1], strategy="self_speculative", max_new_tokens=30)
    ends = {}
    for _ in range(200):
        for name, stream in (("one", one), ("two", two)):
            event = next(stream, None)
            if isinstance(event, Finish):
                ends[name] = list(event.token_ids)
    assert ends == {
        "one": ids(llama, PROMPTS[0], max_new_tokens=30),
        "two": ids(llama, PROMPTS[1], strategy="self_speculative", max_new_tokens=30),
    }


def test_ar_commits_one_token_at_a_time(llama):
    events = list(nb.stream(llama, PROMPTS[0], strategy="ar", max_new_tokens=5))
    assert [(event.start, event.stop) for event in events if isinstance(event, Commit)] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]
