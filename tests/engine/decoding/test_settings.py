"""DecodeSettings: the fields that command line, adapters and forms use, and the errors for bad values."""

import json
from typing import get_args

import pytest

import nbdiff_engine as nb
from nbdiff_engine.decoding.batch import PROGRAMS
from nbdiff_engine.decoding.settings import SETTING_FIELDS, STRATEGIES, DecodeSettings, policies_as_json
from nbdiff_engine.errors import SettingError
from nbdiff_engine.token_choice.unmasking import POLICIES, PolicyName


def test_every_setting_has_a_form_field():
    assert list(SETTING_FIELDS) == list(DecodeSettings.model_fields)
    for name, field in SETTING_FIELDS.items():
        assert field.default == getattr(DecodeSettings(), name)
        assert field.description
        assert field.form.label
        assert set(field.form.strategies or STRATEGIES) <= set(STRATEGIES)
        assert json.loads(json.dumps(field.to_json()))["label"] == field.form.label


def test_fields_have_the_kinds_and_bounds_of_their_settings():
    fields = SETTING_FIELDS
    assert (fields["strategy"].kind, fields["strategy"].choices) == ("choice", ("ar", *STRATEGIES[1:]))
    assert fields["unmasking"].choices == get_args(PolicyName)
    assert (fields["block_size"].kind, fields["block_size"].least, fields["block_size"].most) == ("integer", 1, 1024)
    assert fields["block_size"].optional
    assert not fields["factor"].optional
    threshold = fields["threshold"]
    assert (threshold.kind, threshold.least, threshold.above_least, threshold.most) == ("number", 0, True, 1)
    assert (fields["factor"].least, fields["factor"].most) == (0, None)
    assert (fields["seed"].least, fields["seed"].most) == (0, 2**63 - 1)
    assert (fields["stop"].kind, fields["trace"].kind) == ("texts", "flag")
    assert (fields["stop_token_ids"].kind, fields["logit_bias"].kind) == ("integers", "pairs")


def test_there_is_a_program_for_every_strategy():
    assert tuple(PROGRAMS) == STRATEGIES


def test_the_json_of_the_policies_contains_their_settings():
    found = {each["name"]: each for each in json.loads(json.dumps(policies_as_json()))}
    assert list(found) == list(POLICIES)
    threshold = found["confidence"]
    assert (threshold["label"], threshold["setting"]) == ("Confidence threshold", "threshold")
    assert (threshold["setting_label"], threshold["setting_least"], threshold["setting_most"]) == ("Threshold", 0, 1)
    assert (found["fixed_steps"]["setting_least"], found["fixed_steps"]["setting_most"]) == (1, None)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": "1.5"}, "threshold is 1.5; it must be above 0 and at most 1."),
        ({"threshold": float("nan")}, "threshold is nan; it must be above 0 and at most 1."),
        ({"factor": float("inf")}, "factor is inf; it must be above 0 and finite."),
        ({"entropy_bound": -1}, "entropy_bound is -1; it must be at least 0 nats and finite."),
        ({"temperature": 101}, "temperature is 101; it must be 0 (greedy) or from 0.001 to 100."),
        ({"temperature": 1e-4}, "temperature is 0.0001; it must be 0 (greedy) or from 0.001 to 100."),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be from 0 to 2^63 - 1."),
        ({"block_size": "0"}, "block_size is 0; it must be at least 1."),
        ({"block_size": 2000}, "block_size is 2000; it must be at most 1024."),
        ({"max_new_tokens": True}, "max_new_tokens is True; expected a value, not true or false."),
        ({"strategy": 5}, "strategy is 5; choose one of ar, block_diffusion, self_speculative."),
        ({"min_p": 0}, "min_p is 0; it must be above 0 and at most 1."),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be above 0 and at most 100."),
        ({"presence_penalty": 3}, "presence_penalty is 3; it must be at least -2 and at most 2."),
        ({"frequency_penalty": "-2.5"}, "frequency_penalty is -2.5; it must be at least -2 and at most 2."),
        ({"logprobs": 101}, "logprobs is 101; it must be at most 100."),
        ({"settings": "mine"}, "settings is 'mine'; choose one of engine, checkpoint."),
        ({"logit_bias": {3: 200}}, "logit_bias has 200 for token 3; it must be from -100 to 100."),
        ({"logit_bias": {3: float("nan")}}, "logit_bias has nan for token 3; it must be from -100 to 100."),
        ({"logit_bias": {-3: 2}}, "logit_bias has the token id -3; a token id is at least 0."),
        ({"logit_bias": ["13:-5"]}, "logit_bias has '13:-5'; give token id=number, as in 13=-5."),
        ({"logit_bias": ["13=1", "13=2"]}, "logit_bias has the token id 13 twice."),
        ({"logit_bias": 5}, "logit_bias is 5; it is a list, or a text with spaces between its parts."),
        ({"logit_bias": {True: 1.0}}, "logit_bias is {True: 1.0}; it must give a number for each token id."),
        ({"stop_token_ids": [-1]}, "stop_token_ids has -1; a token id is at least 0."),
        ({"stop_token_ids": [True]}, "stop_token_ids is [True]; it must be a list of token ids."),
    ],
    ids=str,
)
def test_the_error_for_a_bad_value_is_this_sentence(settings, sentence):
    with pytest.raises(SettingError) as caught:
        DecodeSettings.of(**settings)
    assert str(caught.value) == sentence


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
        ({"stop": ""}, "a stop string has at least one character"),
        ({"block_size": "wide"}, "block_size is 'wide'"),
        ({"blocksize": 8}, "'blocksize' is not known here"),
        ({"temperature": 1e39}, "temperature is 1e+39; it must be 0 (greedy) or from 0.001 to 100"),
        ({"temperature": 1e-30}, "temperature is 1e-30"),
        ({"block_size": True}, "block_size is True"),
        ({"seed": 10**5000}, "seed is a number of thousands of digits"),
        ({"block_size": "9" * 5000}, "block_size is '999"),
        ({"stop": {""}}, "a stop string has at least one character"),
        ({"stop": "\ud800"}, "is not valid text"),
    ],
)
def test_stream_refuses_bad_settings_at_once_with_one_sentence(golden_model, settings, sentence):
    with pytest.raises(nb.SettingError) as caught:
        nb.stream(golden_model, "Hello", **settings)  # raised by the call, not by the first event
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"factor": 0}, "factor is 0; it must be above 0"),
        ({"factor": float("inf")}, "factor is inf"),
        ({"margin": 1.5}, "margin is 1.5; it must be above 0 and at most 1"),
        ({"entropy_bound": -0.1}, "entropy_bound is -0.1; it must be at least 0 nats"),
        ({"steps_per_block": 0}, "steps_per_block is 0; it must be at least 1"),
    ],
)
def test_a_bad_parameter_of_a_policy_gives_one_sentence(settings, sentence):
    with pytest.raises(SettingError) as caught:
        DecodeSettings.of(**settings)
    assert sentence in str(caught.value)
