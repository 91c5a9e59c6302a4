"""What the form of a new job asks for: any value of any field is read, or refused in one sentence."""

import math
from typing import Any

import pytest

from nbdiff_engine import NBDiffError
from playground.training_tab.form import JobForm
from tests.playground.training_tab.forms import filled

HOSTILE_VALUES = (10**400, math.nan, "2026-13-45", "9" * 5000, [], {"a": 1})


@pytest.mark.parametrize("value", HOSTILE_VALUES, ids=lambda value: type(value).__name__)
def test_any_value_of_any_field_is_read_or_refused_in_one_sentence(form: JobForm, value: Any) -> None:
    whole = filled(preset="lora", base="nano-ar", data="corpus")
    sentences = [said_of(form, [*whole[:place], value, *whole[place + 1 :]]) for place in range(len(whole))]
    assert any(sentences)
    assert not any("\n" in each for each in sentences)


def test_a_length_beyond_any_run_is_refused(form: JobForm) -> None:
    with pytest.raises(NBDiffError, match="max_steps is 1000"):
        form.asked(*filled(max_steps=10**400)).recipe()


def said_of(form: JobForm, values: list[Any]) -> str:
    """The sentence of the error in a form, if there is one."""
    try:
        form.asked(*values)
    except NBDiffError as error:
        return str(error)
    return ""


def test_lengths_and_optional_numbers_are_typed_as_text(form: JobForm) -> None:
    # A number field of the page would send 0 for an empty one.
    for name, wrong in (("max_steps", "4.5"), ("epochs", "many"), ("max_steps", "9" * 30)):
        for text in ("", " 4 "):
            assert said_of(form, filled(**{"max_steps": None, name: text})) == ""
        assert wrong in said_of(form, filled(**{"max_steps": None, name: wrong}))
    asked = form.asked(*filled(max_steps=" 4 ", data__limit="7")).recipe()
    assert (asked.optimisation.max_steps, asked.data.limit) == (4, 7)
    assert form.asked(*filled(max_steps="", epochs="1.5", data__limit="")).recipe().optimisation.epochs == 1.5
    with pytest.raises(NBDiffError, match=r"limit is '4\.5'"):
        form.asked(*filled(data__limit="4.5")).recipe()
