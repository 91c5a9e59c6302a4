"""Frames: the events of a lane as sent to the page, and the race file made of them."""

import json

import pytest

import nbdiff_engine as nb
from nbdiff_engine.trace.trace_file import Trace
from playground.race.frames import Summary, lane_frames, race_of
from playground.server.worker import Logged

PROMPT = "What is the capital of Germany?"
STRATEGIES = ("ar", "block_diffusion", "self_speculative")


@pytest.fixture(scope="module")
def model() -> nb.BlockModel:
    return nb.load("nano", dtype="float32")


def log_of(model: nb.BlockModel, lane: int = 0, **settings: object) -> list[Logged]:
    job = nb.prepare(model, PROMPT, max_new_tokens=40, **settings)
    return [Logged(frame, lane) for frame in lane_frames("a name", "a line", job)]


def frames_of(model: nb.BlockModel) -> list[dict]:
    """The frames as JSON values."""
    return [logged.to_json() for logged in log_of(model)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_frames_of_a_lane_contain_its_trace(model: nb.BlockModel, strategy: str) -> None:
    wanted = nb.generate(model, PROMPT, strategy=strategy, max_new_tokens=40)
    log = log_of(model, strategy=strategy)
    frames = json.loads(json.dumps([logged.to_json() for logged in log]))
    assert [frame["kind"] for frame in frames] == ["open", *["event"] * (len(frames) - 2), "done"]
    assert frames[-1]["text"] == wanted.text
    assert frames[-1]["metrics"]["decode_forwards"] == wanted.metrics.decode_forwards
    assert {frame["lane"] for frame in frames} == {0}
    lane = race_of(log, PROMPT).to_json()["lanes"][0]
    assert frames[0]["header"] == {key: lane["trace"][key] for key in frames[0]["header"]}
    assert [frame["event"] for frame in frames[1:-1]] == lane["trace"]["events"]
    trace = Trace.from_json(lane["trace"])
    assert list(trace.token_ids) == wanted.token_ids
    assert trace.model == "nano"
    assert "".join(trace.pieces[token] for token in trace.token_ids[:-1]) == wanted.text
    assert lane["trace"]["answer_pieces"] == list(wanted.trace.answer_pieces)
    assert "".join(trace.answer_pieces) == wanted.text
    assert (lane["name"], lane["about"], lane["context"], lane["token_shift"]) == (
        "a name",
        "a line",
        "token_causal",
        True,
    )


def test_the_text_of_a_token_is_sent_once(model: nb.BlockModel) -> None:
    sent = [token for frame in frames_of(model) if frame["kind"] == "event" for token in frame["pieces"]]
    assert len(sent) == len(set(sent)) > 10


def test_the_parts_of_a_character_are_sent_as_bytes(model: nb.BlockModel) -> None:
    """nano has byte-level tokens; a random continuation of single bytes makes parts of characters."""
    log = log_of(model, temperature=50.0, seed=3)
    sent = {token: each for logged in log for token, each in logged.to_json().get("bytes", {}).items()}
    assert sent
    trace = race_of(log, PROMPT).to_json()["lanes"][0]["trace"]
    assert trace["bytes"] == sent
    assert all(token in trace["pieces"] for token in sent)


def test_a_frame_is_small(model: nb.BlockModel) -> None:
    assert max(len(json.dumps(frame)) for frame in frames_of(model)) < 4000


def test_closing_the_frames_closes_the_decode(model: nb.BlockModel) -> None:
    frames = lane_frames("a", "b", nb.prepare(model, PROMPT, max_new_tokens=40))
    next(frames)
    next(frames)
    frames.close()
    assert nb.generate(model, PROMPT, max_new_tokens=4).token_ids


def test_making_frames_changes_no_token(model: nb.BlockModel) -> None:
    """The frames of a lane end in the tokens of a plain `generate`."""
    for strategy in STRATEGIES:
        for sampling in ({}, {"temperature": 0.9, "seed": 5}):
            settings = {"strategy": strategy, "max_new_tokens": 64, "ignore_eos": True, **sampling}
            plain = nb.generate(model, PROMPT, **settings)
            viewed = list(lane_frames("a", "b", nb.prepare(model, PROMPT, **settings)))
            assert viewed[-2].to_json()["event"][-1] == plain.token_ids


def test_a_race_contains_the_events_of_a_stopped_lane(model: nb.BlockModel) -> None:
    complete, stopped = log_of(model), log_of(model, lane=1, strategy="ar")[:5]
    made = race_of([*complete, *stopped], "title").to_json()
    assert [lane["metrics"] is None for lane in made["lanes"]] == [False, True]
    assert len(made["lanes"][1]["trace"]["events"]) == 4
    Trace.from_json(made["lanes"][1]["trace"], whole=False)


def test_a_race_contains_the_verdict_and_its_title(model: nb.BlockModel) -> None:
    made = race_of([*log_of(model), Logged(Summary("So it is."))], "title").to_json()
    assert (made["format"], made["version"], made["title"], made["verdict"]) == ("nbdiff-race", 1, "title", "So it is.")
