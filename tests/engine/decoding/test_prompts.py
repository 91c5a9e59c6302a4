"""Prompts: text, conversations and token ids, and the errors for invalid ones."""

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

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
        ([5] * 1024, "at most 1023"),
        (None, "is a NoneType"),
        ([{"role": "user"}], "both strings"),
        (
            [{"role": "user", "content": "a"}, 5],
            "Message 2 is 5; a message is {'role': ..., 'content': ...}, both strings",
        ),
        ([{"role": "user", "content": "a"}, "b"], "both strings"),
        ([{"role": "user", "content": "a\ud800"}], "surrogate"),
        ("a\ud800", "surrogate"),
        ([10**5000], "token id a number of thousands of digits"),
        ([2, True], "both strings"),
        (np.array([2.0, 3.0]), "an array of float64; token ids are integers"),
        (torch.zeros(1, 1, 1, dtype=torch.long), "an array of 3 dimensions"),
        ({"prompt": "x"}, "a dict without 'input_ids'"),
        ({"input_ids": [2], "pixel_values": 0}, "has 'pixel_values' beside 'input_ids'"),
        ({"input_ids": [2, 3], "attention_mask": [1]}, "are not of one shape"),
        ([torch.tensor([[2, 3], [2, 4]])], "holds 2 rows of token ids"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a part of type 'image'"),
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


# -- control tokens -----------------------------------------------------------------------------------------


def test_names_of_control_tokens_in_a_prompt_are_text(golden_model):
    plain = nb.prepare(golden_model, ["what is x?", [{"role": "user", "content": "what is x?"}]]).prompts
    for typed in ("<mask>", "<eos>", "<user>", "<bot>"):
        for prompt in (f"what is {typed}?", [{"role": "user", "content": f"what is {typed}?"}]):
            job = nb.prepare(golden_model, prompt)
            (ids,), (text,) = job.prompts, job.texts
            special = [id for id in ids if id < 4]
            assert special == [id for id in plain[0] if id < 4]
            assert typed in text
            assert golden_model.tokenizer.decode(ids) == text


def test_a_raw_prompt_keeps_its_control_tokens_if_asked(golden_model):
    text = "<user>Hello<bot>"
    asked = nb.prepare(golden_model, text, raw=True, control_tokens=True).prompts[0]
    assert (asked[0], asked[-1]) == (2, 3)
    assert asked == nb.prepare(golden_model, "Hello").prompts[0]
    assert {2, 3}.isdisjoint(nb.prepare(golden_model, text, raw=True).prompts[0])


def test_a_mask_that_is_asked_for_is_refused(golden_model):
    with pytest.raises(nb.PromptError, match="MASK token"):
        nb.prepare(golden_model, "what is <mask>?", control_tokens=True)


def test_arguments_for_a_template_need_one(golden_model):
    for prompt, raw in (("Hello", True), ([2, 440, 3], False)):
        with pytest.raises(nb.PromptError, match="template_arguments are for a template; leave them out"):
            nb.prepare(golden_model, prompt, raw=raw, template_arguments={"tools": []})
    with pytest.raises(nb.PromptError, match="does not read 'tools'"):
        nb.prepare(golden_model, "Hello", template_arguments={"tools": []})


def test_a_last_turn_of_the_assistant_is_continued(golden_model):
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "The"}]
    assert nb.prepare(golden_model, turns).texts == ["<user>Hello<bot>The"]


# -- arrays, tensors and what a tokenizer returns -----------------------------------------------------------


def test_rows_of_a_tensor_are_a_batch(golden_model):
    rows = [[2, 440, 3], [2, 441, 3]]
    for ids in (torch.tensor(rows), np.array(rows), [torch.tensor(row) for row in rows], {"input_ids": rows}):
        assert nb.prepare(golden_model, ids).prompts == rows
    outputs = nb.generate(golden_model, torch.tensor(rows[:1]), max_new_tokens=2)
    assert [output.token_ids for output in outputs] == [nb.generate(golden_model, rows[0], max_new_tokens=2).token_ids]


def test_padding_of_a_batch_is_removed(golden_model):
    rows = {"input_ids": [[0, 0, 2, 440, 3], [2, 440, 441, 440, 3]], "attention_mask": [[0, 0, 1, 1, 1], [1] * 5]}
    expected = [[2, 440, 3], [2, 440, 441, 440, 3]]
    assert nb.prepare(golden_model, rows).prompts == expected
    tensors = BatchEncoding({name: torch.tensor(each) for name, each in rows.items()})
    assert nb.prepare(golden_model, tensors).prompts == expected
    single = BatchEncoding({name: each[0] for name, each in rows.items()})
    assert nb.prepare(golden_model, single).prompts == expected[:1]
    assert nb.prepare(golden_model, [single, "Hello"]).prompts[0] == expected[0]


def test_what_the_tokenizer_returns_is_a_prompt(golden_model):
    encoded = golden_model.tokenizer("<user>Hello<bot>", return_tensors="pt")
    assert nb.prepare(golden_model, encoded).prompts == nb.prepare(golden_model, "Hello").prompts
