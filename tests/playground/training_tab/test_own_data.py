"""Own data in the training form: what an upload holds, and which of its columns are read."""

from pathlib import Path

import gradio as gr
import pytest

from nbdiff_engine import SettingError
from playground.training_tab.form import JobForm
from tests.playground.training_tab.forms import filled
from training.data.data_settings import SelfData


def test_the_columns_of_an_upload_can_be_chosen(form: JobForm, tmp_path: Path) -> None:
    own, file = form.own_data, tmp_path / "own.jsonl"
    file.write_text('{"frage": "a", "antwort": "b"}\n')
    news = own.uploaded(str(file))
    assert "Choose which of them to read" in news[own.said]
    assert news[own.columns]["visible"]
    assert news[own.prompt]["choices"] == ["frage", "antwort"]
    data = news[own.data]["value"]
    chosen = own.choose(data, "frage", "antwort")
    assert "1 row of prompts with answers" in chosen[own.said]
    recipe = form.asked(*filled(data=data, data__columns=chosen[own.field])).recipe()
    assert recipe.data.columns == {"prompt": "frage", "completion": "antwort"}
    assert own.choose(data, "antwort", "")[own.field] == "{text: antwort}"
    assert not own.look("corpus")[own.columns]["visible"]


def test_a_choice_that_is_made_while_the_one_before_is_read_counts(form: JobForm) -> None:
    with gr.Blocks() as blocks:
        form.build()
    modes = {each.name: each.trigger_mode for each in blocks.fns.values()}
    assert {modes[name] for name in ("choose", "look", "_emptied")} == {"always_last"}


def test_own_data_drops_what_a_recipe_says_about_documents_of_its_base(form: JobForm, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "a"}\n')
    data = form.own_data.uploaded(str(file))[form.own_data.data]["value"]
    values = filled(preset="smollm2-draft", base="nano-ar", data=data, data__self_data__documents=7)
    assert form.asked(*values).recipe().data.self_data == SelfData()


def test_own_data_stays_with_its_columns_when_the_recipe_or_the_base_changes(form: JobForm, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"frage": "a", "antwort": "b"}\n')
    data = form.own_data.uploaded(str(file))[form.own_data.data]["value"]
    source, columns = form.kept
    for news in (
        form.choose("smoke", "nano", data, "{text: frage}"),
        form.fill_for_base("nano", data, "{text: frage}"),
    ):
        assert (news[source]["value"], news[columns]) == (data, "{text: frage}")
        assert form.own_data.said not in news
    assert form.choose("smoke", "nano", "corpus", "{}")[source]["value"] == "corpus"
    other = form.fill_for_base("nano", "corpus", "{}")
    assert other[source]["value"] is None
    assert other[form.own_data.said] == ""
    assert set(other) <= set(form.outputs)


def test_a_run_does_not_start_on_an_upload_whose_columns_are_not_known(form: JobForm, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"frage": "a", "antwort": "b"}\n')
    data = form.own_data.uploaded(str(file))[form.own_data.data]["value"]
    with pytest.raises(SettingError, match=r"^own.jsonl: 1 row with the columns frage, antwort. Choose which"):
        form.submit(*filled(data=data))
    assert form.jobs.list() == []


def test_a_list_calls_its_handler_only_with_another_choice(form: JobForm) -> None:
    with gr.Blocks() as blocks:
        form.build()
    look, choose = (next(each for each in blocks.fns.values() if each.name == name) for name in ("look", "choose"))
    assert look.fn("corpus", "corpus") == gr.skip()
    assert look.fn("", None) == gr.skip()
    assert choose.fn("lora", "smoke", "nano-ar", "corpus", "{}")[form.parts.max_steps] == 40
