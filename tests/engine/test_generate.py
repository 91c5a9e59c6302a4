"""The front door: what a prompt may be, what stops an answer, and what is said of bad input."""

import warnings

import numpy as np
import pytest
import torch

import nbdiff_engine as nb
from nbdiff_engine.decoding.row import AnswerRow
from nbdiff_engine.generate import text_pieces
from nbdiff_engine.trace.events import FinishReason
from tests.tiny import UNSHIFTED, tiny_model

STORY = "Tell a short story about Max, a mouse and a green key."


def test_a_string_is_a_user_message(golden_model):
    as_text, as_turns, as_ids = (
        nb.generate(golden_model, prompt, max_new_tokens=20)
        for prompt in (
            STORY,
            [{"role": "user", "content": STORY}],
            [2, 440, 261, 448, 454, 461, 537, 15, 261, 583, 286, 261, 658, 584, 17, 3],
        )
    )
    assert as_text.token_ids == as_turns.token_ids == as_ids.token_ids
    assert as_text.trace.prompt == f"<user>{STORY}<bot>"
    assert as_ids.trace.prompt is None


def test_raw_gives_the_text_as_it_is(golden_model):
    assert nb.prepare(golden_model, "Max", raw=True).texts == ["Max"]


def test_a_conversation_keeps_its_turns(golden_model):
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Again"},
    ]
    (text,) = nb.prepare(golden_model, turns).texts
    assert text.index("Hello") < text.index("Hi") < text.index("Again")


def test_a_list_of_prompts_of_any_kind_is_a_batch(golden_model):
    outputs = nb.generate(
        golden_model, ["Hello", [2, 440, 3], [{"role": "user", "content": "Hello"}]], max_new_tokens=6
    )
    assert [type(output) for output in outputs] == [nb.Output] * 3
    assert outputs[0].token_ids == outputs[2].token_ids
    assert isinstance(nb.generate(golden_model, ["Hello"], max_new_tokens=6), list)
    assert isinstance(nb.generate(golden_model, [2, 440, 3], max_new_tokens=6), nb.Output)


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_a_stop_string_ends_the_answer_and_is_cut_off(golden_model, strategy):
    settings = {"strategy": strategy, "block_size": 8, "max_new_tokens": 90}
    whole = nb.generate(golden_model, STORY, **settings)
    stop = whole.text[20:26]
    output = nb.generate(golden_model, STORY, stop=stop, **settings)
    assert output.finish_reason == FinishReason.STOP_STRING
    assert output.text == whole.text[: whole.text.index(stop)]
    assert output.token_ids == whole.token_ids[: len(output.token_ids)]
    missing = nb.generate(golden_model, STORY, stop=("\u2603",), **settings)
    assert missing.token_ids == whole.token_ids


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
@pytest.mark.parametrize("stop", [(), ("the",), (". ", "key")])
def test_live_text_joins_to_the_text(golden_model, strategy, stop):
    for temperature in (0.0, 1.5):  # at 1.5 there are broken characters in it
        job = nb.prepare(
            golden_model, STORY, strategy=strategy, stop=stop, temperature=temperature, seed=1, max_new_tokens=90
        )
        events = []
        text = "".join(text_pieces(job, job.events(), events.append))
        assert text == job.output(0, events).text


def test_the_settings_of_an_answer_are_those_it_was_decoded_with(golden_model):
    settings = nb.generate(golden_model, "Hello", max_new_tokens=3).settings
    assert settings["strategy"] == "block_diffusion"
    assert (settings["block_size"], settings["unmasking"], settings["threshold"]) == (32, "confidence", 0.9)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"block_size": 0}, "block_size is 0; it must be at least 1"),
        ({"block_size": 4096}, "block_size is 4096; it must be at most 1024"),
        ({"threshold": 0}, "threshold is 0; it must be above 0 and at most 1"),
        ({"threshold": 1.01}, "threshold is 1.01; it must be above 0 and at most 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 2}, "top_p is 2"),
        ({"top_k": 0}, "top_k is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"draft_steps": 0}, "draft_steps is 0"),
        ({"strategy": "magic"}, "strategy is 'magic'; choose one of ar, block_diffusion, self_speculative"),
        ({"unmasking": "magic"}, "unmasking is 'magic'; choose one of confidence, factor, margin, top_k"),
        ({"block_size": 8, "sub_block_size": 9}, "sub_block_size is 9; it must be at most the block size, 8"),
        ({"stop": ""}, "a stop string is empty"),
        ({"block_size": "wide"}, "block_size is 'wide'"),
        ({"blocksize": 8}, "'blocksize' is not known here"),
        ({"temperature": 1e39}, "temperature is 1e+39; it must be 0 (greedy) or from 0.001 to 100"),
        ({"temperature": 1e-30}, "temperature is 1e-30"),
        ({"block_size": True}, "block_size is True"),
        ({"seed": 10**5000}, "seed is a number of thousands of digits"),
        ({"block_size": "9" * 5000}, "block_size is '999"),
        ({"stop": {""}}, "a stop string is empty"),
        ({"stop": "\ud800"}, "is not valid text"),
    ],
)
def test_settings_out_of_range_are_one_sentence(golden_model, settings, sentence):
    with pytest.raises(nb.SettingError) as caught:
        nb.stream(golden_model, "Hello", **settings)  # raised by the call, not by the first event
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


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
def test_prompts_that_cannot_be_answered_are_one_sentence(golden_model, prompt, sentence):
    with pytest.raises(nb.PromptError) as caught:
        nb.generate(golden_model, prompt)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_ids_may_come_from_an_array(golden_model):
    expected = nb.generate(golden_model, [2, 440, 3], max_new_tokens=5).token_ids
    for ids in (np.array([2, 440, 3]), torch.tensor([2, 440, 3]), [np.int64(2), np.int64(440), np.int64(3)]):
        assert nb.generate(golden_model, ids, max_new_tokens=5).token_ids == expected


def test_raw_and_a_conversation_contradict_each_other(golden_model):
    with pytest.raises(nb.PromptError, match="raw=True takes the prompt as text"):
        nb.generate(golden_model, [{"role": "user", "content": "Hello"}], raw=True)


def test_a_template_that_refuses_is_one_short_sentence(golden_model, monkeypatch):
    monkeypatch.setattr(golden_model.tokenizer, "chat_template", "{{ raise_exception('no\nway' + 'x' * 1000) }}")
    with pytest.raises(nb.PromptError, match=r"refuses this conversation: no$"):
        nb.generate(golden_model, "Hello")


def test_special_tokens_do_not_hide_a_stop_string(golden_model):
    plan = nb.prepare(golden_model, "Hello", stop="The capital", ignore_eos=True).plan
    row = AnswerRow(0, [2], plan)
    the, capital = golden_model.tokenizer("The capital")["input_ids"]
    assert row.settle([the, *[0] * 30, capital]) == FinishReason.STOP_STRING


def test_a_block_larger_than_trained_is_decoded_with_a_warning(golden_model):
    with pytest.warns(UserWarning, match="block size 48 is larger than the 32 that"):
        assert nb.generate(golden_model, "Hello", block_size=48, max_new_tokens=10).token_ids


@pytest.mark.parametrize("call", [nb.generate, nb.stream])
def test_the_warning_is_of_the_line_that_called_and_prepare_returns_it(golden_model, call):
    with pytest.warns(UserWarning, match="expect worse text") as caught:
        call(golden_model, "Hello", block_size=48, max_new_tokens=4)
    assert [each.filename for each in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job = nb.prepare(golden_model, "Hello", block_size=48)
        assert nb.prepare(golden_model, "Hello").plan.notes == ()
    (note,) = job.plan.notes
    assert (note.model, note.block_size, note.trained) == (golden_model.name, 48, 32)
    assert str(note).startswith("block size 48 is larger than the 32 that")


def test_strategies_that_need_an_ar_commit_are_refused_where_there_is_none():
    model = tiny_model("llama", spec=UNSHIFTED)
    for strategy in ("ar", "self_speculative"):
        with pytest.raises(nb.SettingError, match="which is no AR pass"):
            nb.generate(model, [5, 6], strategy=strategy)


def test_a_model_is_what_load_returns():
    with pytest.raises(nb.SettingError, match="load one with"):
        nb.generate("nano", "Hello")
