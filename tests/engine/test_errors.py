"""Error sentences: pydantic's errors in words, values on one short line, and text that can be encoded."""

from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nbdiff_engine import CheckpointError, DecodeSettings, NBDiffError, PromptError, SettingError, TraceError
from nbdiff_engine.errors import brief, brief_text, first_problem, is_text, setting_error


class Part(BaseModel):
    depth: int = Field(default=1, lt=8)


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    kind: Literal["plain", "striped"] = "plain"
    width: int = Field(default=1, ge=1, le=16)
    share: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    part: Part = Part()

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value:
            raise ValueError("the name is empty; give one")
        return value


def problem(ranges=None, **fields) -> str:
    with pytest.raises(ValidationError) as caught:
        Form.model_validate({"name": "a", **fields})
    return str(setting_error(caught.value, ranges)).removesuffix(".")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"width": "17"}, "width is 17; it must be at most 16"),
        ({"share": 0.0}, "share is 0; it must be above 0"),
        ({"share": float("nan")}, "share is nan; it must be a finite number"),
        ({"part": {"depth": 8}}, "part.depth is 8; it must be below 8"),
        ({"kind": "dotted"}, "kind is 'dotted'; choose one of plain, striped"),
        ({"colour": "red"}, "'colour' is not known here"),
        ({"name": ""}, "the name is empty; give one"),
        ({"width": 10**5000}, "width is a number of thousands of digits; it must be at most 16"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else None,
)
def test_the_first_problem_is_one_sentence(fields, sentence):
    assert problem(**fields) == sentence


def test_a_missing_field_is_named_and_other_errors_repeat_the_value():
    with pytest.raises(ValidationError) as caught:
        Form.model_validate({})
    assert first_problem(caught.value) == "'name' is missing"
    assert problem(kind=["plain"]) == "kind is ['plain']; choose one of plain, striped"
    for value in ("wide", 2.5, None, []):
        assert problem(width=value) == f"width is {value!r}; it must be a whole number"
    assert problem(part=5) == "part is 5; it must be names with values"


def test_an_error_about_a_field_has_its_parts():
    with pytest.raises(ValidationError) as caught:
        Form.model_validate({"name": "a", "part": {"depth": 8}})
    error = setting_error(caught.value)
    assert (error.field, error.value, error.rule) == (("part", "depth"), "8", "it must be below 8")
    own = SettingError.of("stop", "", "has 5; give text")
    assert (str(own), own.field, own.value) == ("stop has 5; give text.", ("stop",), "")
    assert (SettingError("No lane.").field, SettingError("No lane.").rule) == ((), "")


def test_an_error_of_a_validator_keeps_its_parts():
    with pytest.raises(SettingError) as caught:
        DecodeSettings.of(temperature=1e-9)
    error = caught.value
    assert (error.field, error.value) == (("temperature",), "1e-09")
    assert str(error) == f"temperature is 1e-09; {error.rule}."


def test_a_range_in_words_replaces_the_violated_bound():
    ranges = {"share": "above 0 and finite"}
    assert problem(ranges, share=-1) == "share is -1; it must be above 0 and finite"
    assert problem(ranges, share=float("inf")) == "share is inf; it must be above 0 and finite"
    assert problem(ranges, width=0) == "width is 0; it must be at least 1"


def test_a_value_is_repeated_on_one_short_line():
    assert brief("a\nb") == r"'a\nb'"
    assert brief("x" * 100) == "'" + "x" * 56 + "..."
    assert brief(10**5000) == "a number of thousands of digits"
    assert brief_text(" one\ntwo") == "one"
    assert brief_text("abcdef", 5) == "ab..."


def test_half_of_a_surrogate_pair_is_not_text():
    assert is_text("ä \U0001f600")
    assert not is_text("a\ud800")


def test_every_error_of_the_engine_is_a_value_error():
    for kind in (CheckpointError, PromptError, SettingError, TraceError):
        assert issubclass(kind, NBDiffError)
    assert issubclass(NBDiffError, ValueError)
