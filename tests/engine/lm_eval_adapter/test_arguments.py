"""--model_args, and the generation arguments of a task. These tests need no lm_eval."""

import pytest

from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import SettingError
from nbdiff_engine.lm_eval_adapter.arguments import DECODING, ModelArguments, sampling_of


def test_model_arguments_take_their_decode_settings_from_decode_settings():
    own = ["model", "dtype", "device", "quantization", "batch_size", "max_length", "max_gen_toks", "add_bos_token"]
    own += ["template_arguments", "likelihood", "samples"]
    settings = [name for name in DecodeSettings.model_fields if name in ModelArguments.model_fields]
    assert list(ModelArguments.model_fields) == [*own, *settings]
    assert settings == list(DECODING)
    assert ModelArguments.of(model="nano", seed="3", threshold="0.5").decode_settings() == {"threshold": 0.5, "seed": 3}


def test_pretrained_is_an_alias_of_model_and_text_becomes_numbers():
    arguments = ModelArguments.of(pretrained="nano", batch_size="4", block_size="16", unmasking="factor", factor="2")
    assert (arguments.model, arguments.batch_size) == ("nano", 4)
    assert arguments.decode_settings(max_new_tokens=8) == {
        "block_size": 16,
        "unmasking": "factor",
        "factor": 2.0,
        "max_new_tokens": 8,
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"model": "nano", "unmasking": "nosuch"},
            "model_args: unmasking is 'nosuch'; choose one of confidence, factor",
        ),
        ({"model": "nano", "factor": "0"}, "model_args: factor is 0; it must be above 0 and finite."),
        ({"model": "nano", "batch_size": 0}, "model_args: batch_size is 0; it must be at least 1."),
        ({"model": "nano", "max_length": 1}, "model_args: max_length is 1; it must be at least 2."),
        ({"model": "nano", "template_arguments": "{"}, "model_args: template_arguments is '{'; give a dict, or a JSON"),
        ({"model": "nano", "template_arguments": [1]}, "model_args: template_arguments is [1]; give a dict"),
        (
            {"model": "nano", "template_arguments": {}, "chat_template_args": {}},
            "model_args: template_arguments and chat_template_args mean the same; give one of them",
        ),
        (
            {"model": "nano", "temperature": 1},
            "model_args has 'temperature', which nbdiff does not know; it knows model, ",
        ),
    ],
    ids=str,
)
def test_a_bad_argument_is_refused_before_a_checkpoint_is_read(arguments, sentence):
    with pytest.raises(SettingError) as caught:
        ModelArguments.of(**arguments)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    "arguments",
    [
        {"template_arguments": {"enable_thinking": False}},
        {"template_arguments": '{"enable_thinking": false}'},
        {"chat_template_args": {"enable_thinking": False}},
        {"enable_thinking": False},
        {"enable_thinking": False, "template_arguments": {}},
    ],
    ids=str,
)
def test_arguments_of_the_chat_template_are_spelt_as_the_harness_does_too(arguments):
    assert ModelArguments.of(model="nano", **arguments).template_arguments == {"enable_thinking": False}
    assert ModelArguments.of(model="nano").template_arguments == {}


def test_a_task_is_greedy_unless_it_asks_for_sampling():
    assert sampling_of({}) == sampling_of({"temperature": 0.7, "do_sample": False}) == {"temperature": 0.0}
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": None}
    assert sampling_of(sampling) == {"temperature": 0.7, "top_p": 0.9}


def test_penalties_are_arguments_and_min_p_is_the_tasks():
    arguments = ModelArguments.of(model="nano", repetition_penalty="1.2", logit_bias="13=-5 7=2", draft_backoff="False")
    found = arguments.decode_settings(temperature=0.0)
    settings = DecodeSettings.of(**found)
    assert (settings.repetition_penalty, settings.logit_bias) == (1.2, {13: -5.0, 7: 2.0})
    assert settings.draft_backoff is False
    assert sampling_of({"do_sample": True, "temperature": 0.5, "min_p": 0.1}) == {"temperature": 0.5, "min_p": 0.1}
    with pytest.raises(SettingError, match="logit_bias has '13'; give token id=number"):
        ModelArguments.of(model="nano", logit_bias="13")
