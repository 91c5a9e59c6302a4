"""Errors in the words of the page, and one sentence for any value of any field."""

import math
from typing import Any

import pytest

from nbdiff_engine import NBDiffError, SettingError
from playground.options import ServerOptions
from playground.page_words import in_page_words
from playground.race.lanes import check
from playground.race.run_spec import RunSpec
from playground.server.loaded_models import LoadedModels, first_models
from playground.server.tables import LANE_SETTINGS
from playground.sweep.sweep import SweepSpec, check_sweep

LANE = {"model": "nano", "strategy": "block_diffusion", "block_size": 16}
VALUES = [
    0,
    -3,
    2.5,
    1e308,
    -1e308,
    math.nan,
    math.inf,
    10**400,
    True,
    False,
    None,
    "",
    "many",
    "<b>",
    "\ud800",
    [],
    [1, 2],
]
VALUES += [["x"], {}, {"a": 1}, [[]], "9" * 5000]


@pytest.fixture(scope="module")
def loaded() -> LoadedModels:
    return first_models(ServerOptions())


@pytest.mark.parametrize(
    ("lane", "sentence"),
    [
        ({"threshold": 2}, "Lane 2, Threshold: 2 is not allowed; it must be above 0 and at most 1."),
        ({"seed": -1}, "Lane 2, Seed: -1 is not allowed; it must be from 0 to 2^63 - 1."),
        ({"block_size": 2.5}, "Lane 2, Block size: 2.5 is not allowed; it must be a whole number."),
        ({"unmasking": "magic"}, "Lane 2, Unmasking policy: 'magic' is not allowed; choose one of"),
        ({"model": "nosuch"}, "Lane 2: No model 'nosuch' is loaded; there are nano, nano-ar."),
        ({"model": "nano-ar"}, "Lane 2: nano-ar is an autoregressive checkpoint"),
        ({"logit_bias": ["5"]}, "Lane 2, Logit bias: it has '5'; give token id=number"),
        ({"logit_bias": ["5=200"]}, "Lane 2, Logit bias: it has 200 for token 5; it must be from -100 to 100."),
        ({"threshold": "0,9"}, "Lane 2, Threshold: '0,9' is not allowed; it must be a number."),
        ({"draft_confidence": 1}, "Lane 2, Draft confidence: 1 is not allowed; it must be at least 0 and below 1."),
        ({"sub_block_size": 32}, "Lane 2, Sub-block size: 32 is not allowed; it must be at most the block size, 16."),
        ({"strategy": "beam"}, "Lane 2, Strategy: 'beam' is not allowed; choose one of ar, block_diffusion, "),
    ],
)
def test_an_error_names_the_lane_and_the_field(loaded: LoadedModels, lane: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NBDiffError) as caught:
        check(loaded, RunSpec.of(prompt="Hi", lanes=[LANE, {**LANE, **lane}]), ServerOptions())
    assert in_page_words(caught.value).startswith(sentence)


def test_a_field_of_the_run_names_no_lane(loaded: LoadedModels) -> None:
    with pytest.raises(NBDiffError) as caught:
        check(loaded, RunSpec.of(prompt="Hi", lanes=[LANE], max_new_tokens=0), ServerOptions())
    assert in_page_words(caught.value) == "Max new tokens: 0 is not allowed; it must be at least 1."


def test_a_lane_that_is_off_counts(loaded: LoadedModels) -> None:
    lanes = [{**LANE, "on": False}, LANE, {**LANE, "threshold": 7}]
    with pytest.raises(SettingError) as caught:
        check(loaded, RunSpec.of(prompt="Hi", lanes=lanes), ServerOptions())
    assert in_page_words(caught.value).startswith("Lane 3, Threshold: 7")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_new_tokens": None}, "Max new tokens: it is empty; give a whole number."),
        ({"lanes": "<b>"}, "Lanes: '<b>' is not allowed; it must be a list."),
        ({"lanes": ["a; b"]}, "Lane 1: 'a; b' is not allowed; it must be names with values."),
        ({"raw": 5}, "raw is 5; it must be true or false."),
        ({"lanes": [{**LANE, "speed": 5}]}, "'lanes.0.speed' is not known here."),
    ],
)
def test_errors_of_the_whole_form(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        RunSpec.of(**{"prompt": "Hi", "lanes": [LANE], **fields})
    assert in_page_words(caught.value).startswith(words)


def test_a_sentence_without_a_field_stays_as_it_is() -> None:
    for error in (SettingError("threshold is 2; it must be below 1."), TypeError("a; b is c")):
        assert in_page_words(error) == str(error)


def refused(call: Any) -> str:
    """The sentence of the error, if there is one."""
    try:
        call()
    except NBDiffError as error:
        words = in_page_words(error)
        assert "\n" not in words
        assert len(words) < 500
        return words
    return ""


@pytest.mark.parametrize("field", ["model", "strategy", "on", *LANE_SETTINGS])
def test_any_value_of_any_field_of_a_lane_is_taken_or_refused_in_one_sentence(loaded: LoadedModels, field: str) -> None:
    found = [
        refused(
            lambda each=each: check(loaded, RunSpec.of(prompt="Hi", lanes=[{**LANE, field: each}]), ServerOptions())
        )
        for each in VALUES
    ]
    assert sum(map(bool, found)) > 3


@pytest.mark.parametrize("field", ["prompt", "lanes", "max_new_tokens", "raw", "ignore_eos", "history"])
def test_any_value_of_any_field_of_a_run(loaded: LoadedModels, field: str) -> None:
    fields = {"prompt": "Hi", "lanes": [LANE]}
    found = [
        refused(lambda each=each: check(loaded, RunSpec.of(**{**fields, field: each}), ServerOptions()))
        for each in VALUES
    ]
    assert sum(map(bool, found)) > 3


@pytest.mark.parametrize("field", list(SweepSpec.model_fields))
def test_any_value_of_any_field_of_a_sweep(loaded: LoadedModels, field: str) -> None:
    fields = {"models": ["nano"], "block_sizes": [1, 4], "prompt": "Hi", "problems": 2, "max_new_tokens": 8}
    found = [
        refused(lambda each=each: check_sweep(loaded, SweepSpec.of(**{**fields, field: each}), ServerOptions()))
        for each in VALUES
    ]
    assert sum(map(bool, found)) > 3
