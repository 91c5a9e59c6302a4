"""The form that the browser kept: anything may be in it."""

import json
from typing import Any

import pytest

from playground.options import ServerOptions
from playground.race.kept_form import KeptForm, kept_form

LANE = {"model": "nano", "strategy": "ar"}


def test_the_form_is_read() -> None:
    form = {"prompt": "Hi", "max_new_tokens": 7, "switches": ["Chat: keep turns"], "lanes": [LANE]}
    kept = kept_form(json.dumps(form), ServerOptions())
    assert (kept.prompt, kept.max_new_tokens, kept.switches) == ("Hi", 7, ["Chat: keep turns"])
    assert [lane.model for lane in kept.lanes] == ["nano"]


@pytest.mark.parametrize("stored", ["", "null", "[]", "{", "7", "[" * 100_000, '{"lanes": null}'])
def test_nonsense_is_left_out(stored: str) -> None:
    assert kept_form(stored, ServerOptions()) == KeptForm()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", 5),
        ("prompt", "x" * 9000),
        ("max_new_tokens", 0),
        ("max_new_tokens", True),
        ("max_new_tokens", 10**9),
        ("max_new_tokens", "7"),
        ("switches", "all"),
        ("lanes", []),
        ("lanes", [{**LANE, "shell": "x"}]),
        ("lanes", {"0": LANE}),
    ],
)
def test_a_field_that_is_not_valid_keeps_its_default(field: str, value: Any) -> None:
    kept = kept_form(json.dumps({"prompt": "Hi", field: value}), ServerOptions())
    assert getattr(kept, field) is None


def test_there_are_at_most_as_many_lanes_as_the_server_allows() -> None:
    assert len(kept_form(json.dumps({"lanes": [LANE] * 20}), ServerOptions()).lanes) == 6
