"""Own data in the training form: what an upload holds, and which of its columns are read."""

from pathlib import Path

import gradio as gr

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
