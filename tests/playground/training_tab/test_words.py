"""Errors of the form name its fields, where those of the command line name options."""

from playground.training_tab.form import JobForm
from playground.training_tab.words import refused
from tests.playground.training_tab.forms import filled
from training.errors import RunError


def test_what_a_recipe_still_needs_is_named_as_the_fields_of_the_form(form: JobForm) -> None:
    empty = filled(preset="lora")
    both = "The recipe names no base checkpoint and no data; give a base model and data."
    assert both in form.described(*empty)[form.said]
    assert "The recipe names no base checkpoint; give a base model." in form.estimated(*empty)[form.said]


def test_a_name_that_reads_like_an_option_stays_as_it_is() -> None:
    assert "There is no file my--data.jsonl." in refused(RunError("There is no file my--data.jsonl."))
    assert "Repository: &#x27;me&#x27; is not allowed; give it" in refused(RunError.of("--repo", "'me'", "give it"))
