"""`custom_generate` in `generate` of transformers: its tokens, its streamers, and what it refuses."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StopStringCriteria, TextDiffusionStreamer, TextStreamer

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


def test_a_network_with_other_attention_is_refused():
    network = tiny_model("llama", attention="flex_attention").network
    with pytest.raises(SettingError, match="attn_implementation='sdpa'"):
        network.generate(torch.tensor([[5, 9]]), max_new_tokens=2, custom_generate=nb.custom_generate)
