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
def race(loaded: LoadedModels) -> dict[str, Any]:
    """A race of one block-diffusion lane."""
    job = nb.prepare(loaded.get("nano"), PROMPT, block_size=16, max_new_tokens=32)
    return race_of([Logged(frame, 0) for frame in lane_frames("Block diffusion", "nano", job)], PROMPT).to_json()


@pytest.fixture
def fork(race: dict[str, Any]) -> dict[str, Any]:
    """A fork after the last forward, as the page sends it."""
    trace = copy.deepcopy(race["lanes"][0]["trace"])
    trace["events"] = [event for event in trace["events"] if event[0] != "finish"]
    return {"trace": trace, "name": "Block diffusion", "changes": [], "settings": {}, "lane": 0, "lanes": 3}


def decoded(request) -> dict[str, Any]:
    (part,) = request.parts
    return race_of([Logged(frame, 0) for frame in part.frames()], "").to_json()["lanes"][0]


def test_changed_text_is_encoded_and_the_later_tokens_are_decoded_again(loaded: LoadedModels, fork: dict) -> None:
    found = decoded(check_fork(loaded, {**fork, "changes": [[3, " France"]]}, ServerOptions()))
    assert "France" in found["text"]
    assert "Berl" not in found["text"]
    trace = Trace.from_json(found["trace"])
    assert [event.changed for event in trace.events if isinstance(event, Edit)] == [(3,)]
    assert "1 changed by hand" in found["about"]


def test_a_fork_continues_with_other_settings(loaded: LoadedModels, fork: dict) -> None:
    fork["trace"]["events"] = fork["trace"]["events"][:1]
    found = decoded(
        check_fork(loaded, {**fork, "settings": {"unmasking": "top_k", "tokens_per_step": 2}}, ServerOptions())
    )
    assert found["trace"]["settings"]["unmasking"] == "top_k"
    assert "2 most confident a step" in found["about"]


def with_trace(fork: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {**fork, "trace": {**fork["trace"], **changed}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda fork: None, "The fork cannot be read"),
        (lambda fork: [], "The fork cannot be read"),
        (lambda fork: {}, "The fork cannot be read"),
        (lambda fork: {**fork, "trace": {}}, "This is not a trace"),
        (lambda fork: with_trace(fork, events=[[1]]), "This trace is damaged"),
        (lambda fork: with_trace(fork, events=[["commit", 0, 0, 0, 0, 1, []]] * 20_001), "more than 20,000 events"),
        (lambda fork: with_trace(fork, model="nosuch"), "No model 'nosuch' is loaded"),
        (lambda fork: with_trace(fork, prompt_ids=[5] * 9000), "prompt has more than"),
        (lambda fork: with_trace(fork, prompt_ids=[10**9]), "1000000000"),
        (lambda fork: with_trace(fork, settings={"strategy": "ar", "shell": "x"}), "does not have"),
        (lambda fork: {**fork, "settings": {"max_new_tokens": 10**6}}, "this server allows at most 512"),
        (lambda fork: {**fork, "settings": {"threshold": 7}}, "threshold is 7"),
        (lambda fork: {**fork, "changes": [[999, 5]]}, "Position 999 is not on the canvas"),
        (lambda fork: {**fork, "changes": [[3, ""]]}, "The new text for position 3 is empty"),
        (lambda fork: {**fork, "changes": [[3, 10**9]]}, "holds the token id 1000000000"),
        (lambda fork: {**fork, "changes": [[0, None]]}, "The first token of a block cannot be masked"),
        (lambda fork: {**fork, "changes": [[3, {"a": 1}]]}, "The fork cannot be read"),
    ],
)
def test_a_hostile_fork_raises_one_sentence(loaded: LoadedModels, fork: dict, change: Any, sentence: str) -> None:
    with pytest.raises(NBDiffError) as caught:
        check_fork(loaded, change(fork), ServerOptions())
    message = str(caught.value)
    assert sentence in message
    assert "\n" not in message
    assert len(message) < 400


def test_an_exported_race_is_read_and_its_figures_are_measured_again(race: dict) -> None:
    sent = copy.deepcopy(race)
    sent["lanes"][0]["metrics"] = {"tokens_per_second": 10**9}
    read = check_race(sent).to_json()
    kept = copy.deepcopy(race)
    rates = [each["lanes"][0].pop("metrics")["tokens_per_second"] for each in (read, kept)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-2)  # times in a file are rounded to microseconds
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
def test_a_hostile_race_raises_one_sentence(race: dict, change: Any) -> None:
    with pytest.raises(TraceError) as caught:
        check_race(change(copy.deepcopy(race)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
