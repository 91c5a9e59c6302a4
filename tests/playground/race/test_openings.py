"""What the page shows first: of nano alone, or of a coming model with nano one choice away."""

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from playground.options import ServerOptions
from playground.race import openings as openings_module
from playground.race.decode_tab import DecodeTab
from playground.race.opening_choice import OWN_LANES
from playground.race.openings import openings
from playground.race.recorded_race import recorded_race
from playground.server.coming_model import OPENS_ON, ComingModel
from playground.server.loaded_models import LoadedModels, first_models
from playground.server.worker import Limits, Worker

SPEC = {"base": {"name": "smollm2", "model_type": "llama", "parameters": 1, "fingerprint": "0" * 64}}


@pytest.fixture(scope="module")
def loaded() -> LoadedModels:
    return first_models(ServerOptions(model="nano"))


@pytest.fixture
def with_drafts(loaded: LoadedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModels:
    """The same, and SmolLM2 with a draft adapter is coming."""
    (tmp_path / "draft_adapter.json").write_text(json.dumps(SPEC))
    monkeypatch.setattr(openings_module, "bundled_adapters", lambda: {OPENS_ON: tmp_path})
    monkeypatch.setattr(loaded, "coming", ComingModel(OPENS_ON))
    return loaded


def tab_of(loaded: LoadedModels) -> DecodeTab:
    tab = DecodeTab(loaded, Worker(Limits()), ServerOptions())
    with gr.Blocks() as blocks:
        tab.build(blocks)
    return tab


def test_without_a_coming_model_the_page_opens_on_the_one_that_is_loaded(loaded: LoadedModels) -> None:
    found = openings(loaded)
    assert [each.model for each in found] == ["nano"]
    assert "a toy of 4.8M parameters: word problems" in found[0].about
    assert not tab_of(loaded).opening.model.visible


def test_a_coming_model_is_first_and_nano_is_one_choice_away(with_drafts: LoadedModels) -> None:
    drafts, nano = openings(with_drafts)
    assert (drafts.model, nano.model) == (OPENS_ON, "nano")
    assert "For block diffusion, choose nano" in drafts.about
    assert [lane.strategy for lane in drafts.lanes] == ["ar", "self_speculative"]
    assert {lane.model for lanes in drafts.presets.values() for lane in lanes} == {OPENS_ON}
    tab = tab_of(with_drafts)
    assert tab.opening.model.visible
    assert tab.prompt.value == drafts.examples[0].prompt
    assert tab.stage.value["race"]["title"] == drafts.examples[0].prompt
    assert tab.editor.value["models"][0]["name"] == OPENS_ON  # before it is loaded


def test_a_choice_shows_the_race_the_lanes_and_the_examples_of_that_model(with_drafts: LoadedModels) -> None:
    tab = tab_of(with_drafts)
    drafts, nano = tab.opening.openings.values()
    news = tab.open_on("nano", drafts.examples[1].prompt)
    assert news[tab.prompt] == nano.examples[0].prompt
    assert news[tab.stage]["recorded"]
    assert [lane["name"] for lane in news[tab.stage]["race"]["lanes"]][1] == "Block diffusion"
    assert {lane["model"] for lane in news[tab.editor]["lanes"]} == {"nano"}
    assert news[tab.opening.preset]["choices"] == list(nano.presets)
    assert tab.open_on("nano", "What did I write myself?")[tab.prompt] == "What did I write myself?"


def test_a_reload_shows_the_model_of_the_lanes_that_were_kept(with_drafts: LoadedModels) -> None:
    tab = tab_of(with_drafts)
    lanes = [{"model": "nano", "strategy": "ar"}]
    news = tab.restore("form:" + json.dumps({"prompt": "Hi", "lanes": lanes}))
    assert (news[tab.opening.model], news[tab.prompt]) == ("nano", "Hi")
    assert news[tab.stage]["race"]["title"] == tab.opening.get("nano").examples[0].prompt
    with_race = tab.restore("form:" + json.dumps({"prompt": "Hi", "lanes": lanes, "has_race": True}))
    assert tab.stage not in with_race  # the browser shows the last race
    assert tab.restore("form:{}")[tab.opening.model] == OPENS_ON


def test_the_list_of_presets_names_the_lanes_in_the_form(loaded: LoadedModels) -> None:
    tab = tab_of(loaded)
    preset, presets = tab.opening.preset, openings(loaded)[0].presets

    def named(lanes: Any) -> str:
        update = tab.lanes_edited("nano", {"lanes": lanes})
        assert update["choices"] == [*presets] + [OWN_LANES] * (update["value"] == OWN_LANES)
        return update["value"]

    for name, lanes in presets.items():
        as_sent = [lane.model_dump(mode="json", exclude_none=True) for lane in lanes]
        assert named(as_sent) == name
        assert tab.restore("form:" + json.dumps({"lanes": as_sent}))[preset]["value"] == name
        assert named([*as_sent, as_sent[0]]) == OWN_LANES
    for wrong in (None, "x", [], [{"model": "nano"}], [{"model": "nano", "strategy": "ar", "block_size": "many"}]):
        assert named(wrong) == OWN_LANES
    assert tab.editor not in tab.choose(OWN_LANES, "nano")


@pytest.mark.parametrize("model", ["nano", OPENS_ON])
def test_a_recorded_race_is_that_of_its_opening(with_drafts: LoadedModels, model: str) -> None:
    opening = next(each for each in openings(with_drafts) if each.model == model)
    race = recorded_race(model)
    assert race.title == opening.examples[0].prompt
    assert [lane.strategy for lane in race.lanes] == [lane.strategy for lane in opening.lanes]
    ar = race.lanes[0]
    drafted = next(lane for lane in race.lanes if lane.strategy == "self_speculative")
    assert drafted.text == ar.text
    assert drafted.metrics.decode_forwards < ar.metrics.decode_forwards
