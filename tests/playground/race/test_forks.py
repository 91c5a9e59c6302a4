"""Forks and imports from a page: everything in them is checked."""

import copy
from typing import Any

import pytest

import nbdiff_engine as nb
from nbdiff_engine import NBDiffError, TraceError
from nbdiff_engine.trace.events import Edit
from nbdiff_engine.trace.trace_file import Trace
from playground.options import ServerOptions
from playground.race.forks import check_fork
from playground.race.frames import lane_frames, race_of
from playground.race.imported_race import check_race
from playground.server.loaded_models import LoadedModels, first_models
from playground.server.worker import Logged

PROMPT = "What is the capital of Germany?"


@pytest.fixture(scope="module")
def loaded() -> LoadedModels:
    return first_models(ServerOptions())


@pytest.fixture(scope="module")
def whole(loaded: LoadedModels) -> dict[str, Any]:
    """A race of one block-diffusion lane."""
    job = nb.prepare(loaded.get("nano"), PROMPT, block_size=16, max_new_tokens=32)
    return race_of([Logged(frame, 0) for frame in lane_frames("Block diffusion", "nano", job)], PROMPT).to_json()


@pytest.fixture
def asked(whole: dict[str, Any]) -> dict[str, Any]:
    """A fork after the last forward, as the page sends it."""
    trace = copy.deepcopy(whole["lanes"][0]["trace"])
    trace["events"] = [event for event in trace["events"] if event[0] != "finish"]
    return {"trace": trace, "name": "Block diffusion", "changes": [], "settings": {}, "lane": 0, "lanes": 3}


def decoded(request) -> dict[str, Any]:
    (part,) = request.parts
    return race_of([Logged(frame, 0) for frame in part.frames()], "").to_json()["lanes"][0]


def test_a_change_in_words_becomes_tokens_and_the_rest_is_decoded_anew(loaded: LoadedModels, asked: dict) -> None:
    found = decoded(check_fork(loaded, {**asked, "changes": [[3, " France"]]}, ServerOptions()))
    assert "France" in found["text"]
    assert "Berl" not in found["text"]
    trace = Trace.from_json(found["trace"])
    assert [event.changed for event in trace.events if isinstance(event, Edit)] == [(3,)]
    assert "1 changed by hand" in found["about"]


def test_other_settings_go_on_from_where_it_stood(loaded: LoadedModels, asked: dict) -> None:
    asked["trace"]["events"] = asked["trace"]["events"][:1]
    found = decoded(
        check_fork(loaded, {**asked, "settings": {"unmasking": "top_k", "tokens_per_step": 2}}, ServerOptions())
    )
    assert found["trace"]["settings"]["unmasking"] == "top_k"
    assert "2 most confident a step" in found["about"]


def with_trace(asked: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {**asked, "trace": {**asked["trace"], **changed}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda asked: None, "The fork cannot be read"),
        (lambda asked: [], "The fork cannot be read"),
        (lambda asked: {}, "The fork cannot be read"),
        (lambda asked: {**asked, "trace": {}}, "This is not a trace"),
        (lambda asked: with_trace(asked, events=[[1]]), "This trace is damaged"),
        (lambda asked: with_trace(asked, events=[["commit", 0, 0, 0, 0, 1, []]] * 20_001), "more than 20,000 events"),
        (lambda asked: with_trace(asked, model="nosuch"), "No model 'nosuch' is loaded"),
        (lambda asked: with_trace(asked, prompt_ids=[5] * 9000), "prompt has more than"),
        (lambda asked: with_trace(asked, prompt_ids=[10**9]), "1000000000"),
        (lambda asked: with_trace(asked, settings={"strategy": "ar", "shell": "x"}), "does not have"),
        (lambda asked: {**asked, "settings": {"max_new_tokens": 10**6}}, "this server allows at most 512"),
        (lambda asked: {**asked, "settings": {"threshold": 7}}, "threshold is 7"),
        (lambda asked: {**asked, "changes": [[999, 5]]}, "Position 999 is not on the canvas"),
        (lambda asked: {**asked, "changes": [[3, ""]]}, "The new text for position 3 is empty"),
        (lambda asked: {**asked, "changes": [[3, 10**9]]}, "holds the token id 1000000000"),
        (lambda asked: {**asked, "changes": [[0, None]]}, "The first token of a block cannot be masked"),
        (lambda asked: {**asked, "changes": [[3, {"a": 1}]]}, "The fork cannot be read"),
    ],
)
def test_a_hostile_fork_is_one_sentence(loaded: LoadedModels, asked: dict, change: Any, sentence: str) -> None:
    with pytest.raises(NBDiffError) as caught:
        check_fork(loaded, change(asked), ServerOptions())
    said = str(caught.value)
    assert sentence in said
    assert "\n" not in said
    assert len(said) < 400


def test_a_race_that_was_exported_is_read_and_its_figures_measured_anew(whole: dict) -> None:
    sent = copy.deepcopy(whole)
    sent["lanes"][0]["metrics"] = {"tokens_per_second": 10**9}
    read = check_race(sent).to_json()
    kept = copy.deepcopy(whole)
    rates = [each["lanes"][0].pop("metrics")["tokens_per_second"] for each in (read, kept)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-2)  # a file has its times to the microsecond
    assert read == kept


@pytest.mark.parametrize(
    "change",
    [
        lambda race: None,
        lambda race: "race",
        lambda race: {**race, "version": 2},
        lambda race: {**race, "lanes": []},
        lambda race: {**race, "lanes": race["lanes"] * 25},
        lambda race: {**race, "title": "x" * 30_000},
        lambda race: {**race, "lanes": [{**race["lanes"][0], "trace": {}}]},
        lambda race: {**race, "lanes": [{**race["lanes"][0], "name": 7}]},
        lambda race: {**race, "lanes": [{**race["lanes"][0], "context": "<b>"}]},
    ],
)
def test_a_hostile_race_is_one_sentence(whole: dict, change: Any) -> None:
    with pytest.raises(TraceError) as caught:
        check_race(change(copy.deepcopy(whole)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
