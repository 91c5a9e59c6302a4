"""Prompts: text, conversations and token ids, and the errors for invalid ones."""

import numpy as np
import pytest
import torch

import nbdiff_engine as nb


def test_raw_adds_no_chat_template(golden_model):
    assert nb.prepare(golden_model, "Max", raw=True).texts == ["Max"]


def test_a_conversation_keeps_its_turns(golden_model):
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Again"},
    ]
    (text,) = nb.prepare(golden_model, turns).texts
    assert text.index("Hello") < text.index("Hi") < text.index("Again")


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ([], "is empty"),
        ([2, 961], "token id 961"),
        ([2, -1], "token id -1"),
        ([2, 1, 3], "MASK token"),
        ("what is <mask>?", "MASK token"),
        ([5] * 1024, "at most 1023"),
        (None, "is a NoneType"),
        ([{"role": "user"}], "both strings"),
        ([{"role": "user", "content": "a"}, 5], "both strings"),
        ([{"role": "user", "content": "a"}, "b"], "both strings"),
        ([{"role": "user", "content": "a\ud800"}], "surrogate"),
        ("a\ud800", "surrogate"),
        ([10**5000], "token id a number of thousands of digits"),
        ([2, True], "both strings"),
        (7, "is a int"),
    ],
)
def test_an_invalid_prompt_gives_one_sentence(golden_model, prompt, sentence):
    with pytest.raises(nb.PromptError) as caught:
        nb.generate(golden_model, prompt)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_ids_from_an_array_are_accepted(golden_model):
    expected = nb.generate(golden_model, [2, 440, 3], max_new_tokens=5).token_ids
    for ids in (np.array([2, 440, 3]), torch.tensor([2, 440, 3]), [np.int64(2), np.int64(440), np.int64(3)]):
        assert nb.generate(golden_model, ids, max_new_tokens=5).token_ids == expected


def test_raw_with_a_conversation_is_refused(golden_model):
    with pytest.raises(nb.PromptError, match="raw=True takes the prompt as text"):
        nb.generate(golden_model, [{"role": "user", "content": "Hello"}], raw=True)


def test_an_error_of_the_template_gives_one_short_sentence(golden_model, monkeypatch):
    monkeypatch.setattr(golden_model.tokenizer, "chat_template", "{{ raise_exception('no\nway' + 'x' * 1000) }}")
    with pytest.raises(nb.PromptError, match=r"refuses this conversation: no$"):
        nb.generate(golden_model, "Hello")
