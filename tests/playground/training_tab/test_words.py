"""Errors of the form name its fields, where those of the command line name options."""

from dataclasses import replace
from pathlib import Path

from playground.training_tab.form import JobForm
from playground.training_tab.words import choice, head, refused
from tests.playground.training_tab.forms import filled
from training.errors import RunError
from training.jobs import Jobs


def test_what_a_recipe_still_needs_is_named_as_the_fields_of_the_form(form: JobForm) -> None:
    empty = filled(preset="lora")
    both = "The recipe names no base checkpoint and no data; give a base model and data."
    assert both in form.described(*empty)[form.said]
    assert "The recipe names no base checkpoint; give a base model." in form.estimated(*empty)[form.said]


def test_a_name_that_reads_like_an_option_stays_as_it_is() -> None:
    assert "There is no file my--data.jsonl." in refused(RunError("There is no file my--data.jsonl."))
    assert "Repository: &#x27;me&#x27; is not allowed; give it" in refused(RunError.of("--repo", "'me'", "give it"))


def test_an_upload_and_a_setting_have_the_names_that_a_visitor_knows(form: JobForm, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "a"\n')
    said = form.own_data.uploaded(str(file))[form.own_data.said]
    assert "Line 1 of own.jsonl is not JSON: Expecting" in said
    assert "1 cannot be used; &#x27;Share of unusable rows to allow&#x27; allows 1 %." in said
    assert "data.jsonl is gone" in refused(RunError("data.jsonl is gone."))


def test_the_reason_of_a_failed_job_has_no_path_of_the_server(form: JobForm, jobs: Jobs) -> None:
    uploads = form.access.uploads
    reason = f"{uploads / 'f00d' / 'own.jsonl'} is empty."
    job = replace(form.submit(*filled()), state="failed", reason=reason)
    assert choice(job, uploads).endswith("· own.jsonl is empty.")
    shown = head(job, (), None, uploads)
    assert "own.jsonl is empty." in shown
    assert str(jobs.home) not in shown
