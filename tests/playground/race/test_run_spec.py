"""RunSpec: the same checks for the form, the link and the API call."""

import base64
import json
import zlib

import pytest

from nbdiff_engine import DecodeSettings, SettingError, load
from playground.race.presets import FIRST, presets
from playground.race.run_spec import LaneSpec, RunSpec, Turn

LANE = {"model": "nano", "strategy": "block_diffusion", "block_size": 16.0, "threshold": 0.9}


def test_every_setting_of_a_lane_is_a_decode_setting() -> None:
    assert set(LaneSpec.model_fields) - {"model", "on"} <= set(DecodeSettings.model_fields)


def test_a_lane_has_every_decode_setting_except_those_of_the_run() -> None:
    of_the_run = {"max_new_tokens", "ignore_eos", "stop", "stop_token_ids", "trace"}
    of_the_run |= {"logprobs", "settings"}
    assert set(LaneSpec.model_fields) - {"model", "on"} == set(DecodeSettings.model_fields) - of_the_run


def test_an_integer_sent_as_a_float_is_accepted() -> None:
    lane = RunSpec.of(prompt="a", lanes=[LANE], max_new_tokens=8.0).lanes[0]
    assert lane.settings() == {"strategy": "block_diffusion", "block_size": 16, "threshold": 0.9}


def test_the_lines_of_a_form_are_a_bias_of_the_engine() -> None:
    lane = RunSpec.of(prompt="a", lanes=[{**LANE, "logit_bias": ["13=-5", "7=2"]}]).lanes[0]
    assert DecodeSettings.of(**lane.settings()).logit_bias == {13: -5.0, 7: 2.0}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"lanes": None}, "lanes"),
        ({"lanes": "ar"}, "lanes"),
        ({"lanes": [{**LANE, "strategy": "magic"}]}, "strategy"),
        ({"lanes": [{**LANE, "block_size": 2.5}]}, "block_size"),
        ({"lanes": [{**LANE, "threshold": "<b>"}]}, "threshold"),
        ({"lanes": [{**LANE, "colour": "red"}]}, "colour"),
        ({"lanes": [{**LANE, "model": "m" * 1000}]}, "model"),
        ({"max_new_tokens": None}, "max_new_tokens is empty"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"history": [{"role": "tool", "content": "x"}]}, "role"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_raises_one_sentence_with_its_name(fields: dict, part: str) -> None:
    with pytest.raises(SettingError) as caught:
        RunSpec.of(**{"prompt": "a", "lanes": [LANE], "max_new_tokens": 8, **fields})
    message = str(caught.value)
    assert part in message
    assert "\n" not in message
    assert len(message) < 300


def test_a_link_contains_all_fields_of_a_run() -> None:
    spec = RunSpec.of(
        prompt="Wörter & <b>\n" * 20,
        lanes=[LANE, {"model": "nano-ar", "strategy": "ar", "on": False, "temperature": 0.7, "seed": 3}],
        max_new_tokens=64,
        raw=True,
        ignore_eos=True,
        history=(Turn(role="user", content="a"), Turn(role="assistant", content="b")),
    )
    link = spec.to_link()
    assert link.replace("-", "").replace("_", "").isalnum()
    assert RunSpec.from_link(link) == spec


def packed(data: object) -> str:
    return base64.urlsafe_b64encode(zlib.compress(json.dumps(data).encode(), 9)).decode().rstrip("=")


@pytest.mark.parametrize(
    "link",
    [
        "",
        "!",
        "abc",
        None,
        7,
        "A" * 100_000,
        packed([1]),
        packed("x"),
        packed({"prompt": "a"}),
        packed({"x" * 10**6: 1}),
    ],
)
def test_a_broken_link_raises_one_sentence(link: object) -> None:
    with pytest.raises(SettingError) as caught:
        RunSpec.from_link(link)
    assert len(str(caught.value)) < 300


def test_a_link_that_decompresses_to_10_mb_is_refused() -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        RunSpec.from_link(packed({"prompt": "a" * 10**7}))


def test_presets_use_only_strategies_of_the_checkpoint() -> None:
    model = load("nano")
    found = presets(model, "nano-ar")
    assert next(iter(found)) == FIRST
    assert [lane.strategy for lane in found[FIRST]] == ["ar", "block_diffusion", "self_speculative"]
    assert {"The paper's setting", "Fast", "Lossless", "Policies", "Before and after adaptation"} <= set(found)
    assert found["The paper's setting"][-1].block_size == model.spec.block_size
    for name, lanes in found.items():
        assert 1 <= len(lanes) <= 6, name
        assert all(lane.model in ("nano", "nano-ar") for lane in lanes)
        for lane in lanes:
            DecodeSettings.of(**lane.settings())
    assert list(presets(load("nano-ar"))) == ["AR only"]
