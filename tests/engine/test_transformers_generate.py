"""`custom_generate` in `generate` of transformers: its tokens, its streamers, and what it refuses."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    StopStringCriteria,
    TextDiffusionStreamer,
    TextStreamer,
)

import nbdiff_engine as nb
from nbdiff_engine import SettingError
from tests.tiny import VOCABULARY, tiny_model

QUESTION = [{"role": "user", "content": "What is the capital of Peru?"}]


@pytest.fixture(scope="module")
def nano():
    folder = nb.describe("nano").folder
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return network, AutoTokenizer.from_pretrained(folder, padding_side="left")


@pytest.fixture(scope="module")
def inputs(nano):
    """Two conversations of different lengths, padded on the left."""
    longer = [{"role": "user", "content": "Write a Python function that doubles a number."}]
    texts = [
        nano[1].apply_chat_template(each, add_generation_prompt=True, tokenize=False) for each in (QUESTION, longer)
    ]
    return nano[1](texts, padding=True, return_tensors="pt", add_special_tokens=False)


@pytest.fixture
def one(nano):
    return nano[1].apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)


@pytest.mark.parametrize("strategy", ["ar", "self_speculative"])
def test_a_padded_batch_has_the_greedy_tokens_of_transformers(nano, inputs, strategy):
    network, _ = nano
    expected = network.generate(**inputs, max_new_tokens=40, do_sample=False)
    found = network.generate(
        **inputs, max_new_tokens=40, do_sample=False, custom_generate=nb.custom_generate, strategy=strategy
    )
    assert torch.equal(found, expected)


def test_block_diffusion_has_the_tokens_of_the_engine(nano, one):
    network, _ = nano
    settings = {"block_size": 8, "threshold": 0.6, "max_new_tokens": 30}
    whole = network.generate(**one, custom_generate=nb.custom_generate, return_dict_in_generate=True, **settings)
    expected = nb.generate(nb.load("nano", dtype="float32"), QUESTION, **settings)
    assert expected.settings["strategy"] == "block_diffusion"
    assert whole.sequences[0, one["input_ids"].shape[1] :].tolist() == expected.token_ids


def test_sampling_follows_the_generation_config_and_the_seed_of_torch():
    network = tiny_model("llama").network
    ids = torch.tensor([[5, 9, 12, 7]])
    how = {"max_new_tokens": 12, "do_sample": True, "custom_generate": nb.custom_generate, "strategy": "ar"}

    def sampled(of_torch: int, **options) -> list[int]:
        torch.manual_seed(of_torch)
        return network.generate(ids, **how, **options)[0].tolist()

    hot = {"temperature": 20.0, "top_k": VOCABULARY}
    assert sampled(1, **hot) == sampled(1, **hot) != sampled(2, **hot)
    assert sampled(1, **hot, seed=3) == sampled(2, **hot, seed=3)
    greedy = network.generate(ids, max_new_tokens=12, do_sample=False)[0].tolist()
    assert sampled(1, temperature=20.0, top_k=1) == greedy


def test_an_eos_of_the_call_ends_the_answer_and_shorter_answers_are_padded():
    network = tiny_model("llama").network
    ids = torch.tensor([[5, 9, 12, 7], [8, 3, 30, 2]])
    free = network.generate(ids, max_new_tokens=8, do_sample=False)
    end = int(free[0, 6])
    how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": end, "pad_token_id": 0}
    expected = network.generate(ids, **how)
    assert torch.equal(network.generate(ids, **how, custom_generate=nb.custom_generate, strategy="ar"), expected)


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_a_streamer_prints_the_answer(nano, one, strategy, capsys):
    network, tokenizer = nano
    to = TextStreamer(tokenizer, skip_prompt=True)
    how = {"max_new_tokens": 30, "custom_generate": nb.custom_generate, "strategy": strategy}
    ids = network.generate(**one, **how, stream_to=to)
    assert capsys.readouterr().out == tokenizer.decode(ids[0, one["input_ids"].shape[1] :]) + "\n"


def test_a_diffusion_streamer_shows_drafts_and_then_the_answer(nano, one, capsys):
    network, tokenizer = nano
    to = TextDiffusionStreamer(tokenizer, skip_prompt=True)
    network.generate(**one, max_new_tokens=30, custom_generate=nb.custom_generate, stream_to=to, block_size=16)
    out = capsys.readouterr().out
    assert "\033[33m" in out  # a draft, in yellow
    shown = "".join(part.partition("\033[J")[2] for part in ("\033[J" + out).split("\0337"))
    assert shown == "The capital of Peru is Lima.<eos>\n"


def test_what_the_engine_does_not_have_is_refused(nano, one):
    network, tokenizer = nano

    def refused(**options) -> str:
        with pytest.raises(SettingError) as error:
            network.generate(**{**one, "max_new_tokens": 4, "custom_generate": nb.custom_generate, **options})
        return str(error.value)

    assert refused(num_beams=3) == "num_beams is 3, which this engine does not have; leave it out."
    assert "num_return_sequences is 2" in refused(num_return_sequences=2, do_sample=True)
    assert "output_scores is set" in refused(output_scores=True, return_dict_in_generate=True)
    assert "StopStringCriteria" in refused(stopping_criteria=[StopStringCriteria(tokenizer, "a")])
    assert "strategy" in refused(strategy="beams")
    two = {name: torch.cat([each, each]) for name, each in one.items()}
    assert "padding_side='left'" in refused(attention_mask=torch.tensor([[1] * (one["input_ids"].shape[1] - 1) + [0]]))
    assert "stream_to takes one prompt" in refused(**two, stream_to=TextStreamer(tokenizer))


def test_options_without_an_effect_are_refused_by_name(nano, one):
    network, tokenizer = nano

    def refused(**options) -> str:
        with pytest.raises(SettingError) as error:
            network.generate(**{**one, "max_new_tokens": 4, "custom_generate": nb.custom_generate, **options})
        return str(error.value)

    assert refused(stop=["a"]).startswith("stop is ['a'], which has no effect here: stop strings are given as")
    assert "stop_token_ids is [3], which has no effect here: the tokens" in refused(stop_token_ids=[3])
    assert "ignore_eos is True" in refused(ignore_eos=True)
    assert "settings is 'checkpoint'" in refused(settings="checkpoint")
    assert "logprobs is 0" in refused(logprobs=0)
    assert "trace is True" in refused(trace=True)
    assert refused(use_cache=False) == "use_cache is False, which this engine does not have; leave it out."
    assert "cache_implementation is 'static'" in refused(cache_implementation="static")
    assert "low_memory is True" in refused(low_memory=True)
    assert "prompt_lookup_num_tokens is 3" in refused(prompt_lookup_num_tokens=3)
    assert "A cache is given" in refused(cache=DynamicCache(config=network.config))
    assert "stop_strings is ['a'], and its tokenizer is missing" in refused(stop_strings=["a"], tokenizer=tokenizer)


def test_a_cache_that_the_checkpoint_names_is_no_wish_of_the_caller(nano, one, monkeypatch):
    network, _ = nano
    how = {"max_new_tokens": 4, "custom_generate": nb.custom_generate}
    expected = network.generate(**one, **how)
    monkeypatch.setattr(network.generation_config, "use_cache", False)
    assert torch.equal(network.generate(**one, **how), expected)


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion"])
@pytest.mark.parametrize("streamed", [True, False])
def test_stop_strings_end_the_answer_as_in_transformers(nano, one, strategy, streamed):
    network, tokenizer = nano
    how = {"max_new_tokens": 30, "do_sample": False, "stop_strings": ["Peru is", "never"]}
    expected = network.generate(**one, **how, tokenizer=tokenizer)
    assert tokenizer.decode(expected[0]).endswith("Peru is")
    to = TextStreamer(tokenizer) if streamed else None
    how |= {"custom_generate": nb.custom_generate, "strategy": strategy, "stream_to": to}
    assert torch.equal(network.generate(**one, **how, stop_tokenizer=tokenizer), expected)
    del how["stop_strings"]
    assert network.generate(**one, **how).shape[1] > expected.shape[1]


@pytest.mark.parametrize("change", ["float32", "float16", "head"])
def test_a_network_that_changed_after_a_call_is_decoded_as_it_is_now(change):
    network = tiny_model("llama").network.to(torch.bfloat16)
    fresh = copy.deepcopy(network)
    ids = torch.tensor([[5, 9, 12, 7]])
    how = {"max_new_tokens": 8, "do_sample": False, "custom_generate": nb.custom_generate, "strategy": "ar"}
    before = network.generate(ids, **how)
    for each in (network, fresh):
        if change == "head":
            with torch.no_grad():
                each.get_output_embeddings().weight.neg_()
        else:
            each.to(getattr(torch, change))
    after = network.generate(ids, **how)
    assert torch.equal(after, fresh.generate(ids, **how))
    assert change != "head" or not torch.equal(after, before)


def test_a_network_with_other_attention_is_refused():
    network = tiny_model("llama", attention="flex_attention").network
    with pytest.raises(SettingError, match="attn_implementation='sdpa'"):
        network.generate(torch.tensor([[5, 9]]), max_new_tokens=2, custom_generate=nb.custom_generate)
