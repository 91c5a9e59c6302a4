"""`custom_generate` gives a stock transformers model the answers of this engine."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextDiffusionStreamer, TextStreamer

import nbdiff_engine as nb
from nbdiff_engine.bundled_files import ASSETS
from tests.engine.serving.servers import QUESTION

NANO = ASSETS / "models" / "nano"


@pytest.fixture(scope="module")
def network():
    return AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(NANO)


@pytest.fixture(scope="module")
def nano() -> nb.BlockModel:
    return nb.load("nano", dtype="float32", fused=False)


def prompt_of(nano: nb.BlockModel, text: str) -> list[int]:
    return nb.prepare(nano, text).prompts[0]


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"strategy": "ar"}, {}),
    ({"strategy": "block_diffusion", "block_size": 8, "threshold": 0.6}, {}),
    ({"strategy": "self_speculative", "seed": 5}, {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.9}),
]


@pytest.mark.parametrize(("settings", "config"), CASES)
def test_the_tokens_are_those_of_generate(network, nano, settings, config):
    prompt = prompt_of(nano, QUESTION)
    asked = {name: value for name, value in config.items() if name != "do_sample"}
    expected = nb.generate(nano, prompt, max_new_tokens=24, **settings, **asked).token_ids
    ids = torch.tensor([prompt])
    found = network.generate(ids, custom_generate=nb.custom_generate, max_new_tokens=24, **settings, **config)
    assert found.tolist() == [prompt + expected]


def test_a_batch_is_padded_to_the_left_of_prompts_and_behind_answers(network, nano):
    prompts = [prompt_of(nano, text) for text in (QUESTION, "Hello", "What is 3 plus 4?")]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(each)) + each for each in prompts])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts])
    found = network.generate(
        ids, attention_mask=mask, custom_generate=nb.custom_generate, max_new_tokens=16, pad_token_id=7, block_size=8
    )
    for row, output in zip(found.tolist(), nb.generate(nano, prompts, max_new_tokens=16, block_size=8)):
        answer = row[longest:]
        assert answer[: len(output.token_ids)] == output.token_ids
        assert set(answer[len(output.token_ids) :]) <= {7}


def test_streamers_show_the_answer_and_the_unfinished_block(network, nano, tokenizer, capsys):
    prompt = prompt_of(nano, QUESTION)
    text = nb.generate(nano, prompt, max_new_tokens=24, block_size=8).text
    for kind in (TextStreamer, TextDiffusionStreamer):
        show = kind(tokenizer, skip_prompt=True, skip_special_tokens=True)
        network.generate(
            torch.tensor([prompt]), custom_generate=nb.custom_generate, max_new_tokens=24, block_size=8, show=show
        )
        printed = capsys.readouterr().out
        drafts = printed.count("\033[33m")
        assert (drafts > 0) == (kind is TextDiffusionStreamer)
        if not drafts:
            assert printed.strip() == text


def test_what_the_engine_does_not_have_is_refused_by_name(network, nano):
    ids = torch.tensor([prompt_of(nano, QUESTION)])

    def generate(**options: Any) -> None:
        network.generate(ids, custom_generate=nb.custom_generate, max_new_tokens=4, **options)

    with pytest.raises(nb.SettingError, match="NoRepeatNGram"):
        generate(no_repeat_ngram_size=2)
    with pytest.raises(nb.SettingError, match="num_beams"):
        generate(num_beams=2)
    with pytest.raises(nb.SettingError, match="block_size is 0"):
        generate(block_size=0)
    with pytest.raises(nb.SettingError, match="padding_side='left'"):
        generate(attention_mask=torch.tensor([[1] * (ids.shape[1] - 1) + [0]]))
