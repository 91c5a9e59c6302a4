"""`generate` and `stream`: kinds of prompts, batches, stop strings, streamed text, and warnings."""

import warnings

import pytest

import nbdiff_engine as nb
from nbdiff_engine.generate import text_pieces
from nbdiff_engine.trace.events import FinishReason

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
def test_streamed_pieces_join_to_the_text(golden_model, strategy, stop):
    for temperature in (0.0, 1.5):  # at 1.5 the text contains broken characters
        job = nb.prepare(
            golden_model, STORY, strategy=strategy, stop=stop, temperature=temperature, seed=1, max_new_tokens=90
        )
        events = []
        text = "".join(text_pieces(job, job.events(), events.append))
        assert text == job.output(0, events).text


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_streamed_pieces_end_at_a_stop_token_inside_a_block(golden_model, strategy):
    settings = {"strategy": strategy, "block_size": 8, "max_new_tokens": 40}
    for token in dict.fromkeys(nb.generate(golden_model, STORY, **settings).token_ids[:12]):
        job = nb.prepare(golden_model, STORY, stop_token_ids=[token], **settings)
        events = []
        text = "".join(text_pieces(job, job.events(), events.append))
        assert text == job.output(0, events).text


def test_a_block_larger_than_trained_is_decoded_with_a_warning(golden_model):
    with pytest.warns(UserWarning, match="block size 48 is larger than the 32 that"):
        assert nb.generate(golden_model, "Hello", block_size=48, max_new_tokens=10).token_ids


@pytest.mark.parametrize("call", [nb.generate, nb.stream])
def test_the_warning_names_the_calling_line_and_prepare_returns_it(golden_model, call):
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


def test_a_name_is_refused_where_a_model_is_expected():
    with pytest.raises(nb.SettingError, match="load one with"):
        nb.generate("nano", "Hello")
