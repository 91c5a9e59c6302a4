"""Frames: what a recorded stream of events looks like to the page, and what the verdict says of its figures."""

import json

import pytest

import nbdiff_engine as nb
from nbdiff_engine.events import Commit, Denoise, Finish, FinishReason, Fixed, Pending, Prefill, Reason, Verify
from playground.frames import RUNNERS_UP, forward_frame, lane_frames, summary_frame, verdict

PROMPT = "What is the capital of Germany?"


def text_of(token: int) -> str:
    return f"<{token}>"


RECORDED = [
    Prefill(0, 0.01, 9, (Fixed(0, 5, 0.9, Reason.AR),)),
    Denoise(
        0,
        0.02,
        block=0,
        step=0,
        start=0,
        stop=4,
        fixed=(Fixed(2, 7, 0.954321, Reason.OVER_THRESHOLD, ((8, 0.02), (9, 0.01), (10, 0.005), (11, 0.001))),),
        pending=(Pending(1, 6, 0.4), Pending(3, 8, 0.2)),
    ),
    Commit(0, 0.03, block=0, start=0, stop=4, fixed=(Fixed(4, 9, 0.8, Reason.AR),)),
    Verify(0, 0.04, block=1, start=4, stop=8, accepted=2, fixed=(Fixed(7, 3, 0.7, Reason.CORRECTION),)),
]


def test_a_frame_holds_what_its_forward_changed() -> None:
    prefill, denoise, commit, verify = (forward_frame(event, text_of) for event in RECORDED)
    assert prefill == {
        "kind": "prefill",
        "prompt_tokens": 9,
        "time": 0.01,
        "fixed": [[0, 5, "<5>", 0.9, "ar", []]],
    }
    assert denoise["fixed"] == [
        [2, 7, "<7>", 0.9543, "over_threshold", [["<8>", 0.02], ["<9>", 0.01], ["<10>", 0.005]]]
    ]
    assert denoise["pending"] == [[1, "<6>", 0.4], [3, "<8>", 0.2]]
    assert (denoise["block"], denoise["step"], denoise["start"], denoise["stop"]) == (0, 0, 0, 4)
    assert (commit["kind"], commit["stop"]) == ("commit", 4)
    assert (verify["kind"], verify["accepted"]) == ("verify", 2)


def test_runners_up_are_few() -> None:
    assert len(forward_frame(RECORDED[1], text_of)["fixed"][0][5]) == RUNNERS_UP


def test_frames_are_json_and_a_text_stays_a_string_whatever_it_holds() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    frame = forward_frame(RECORDED[0], lambda token: hostile)
    assert json.loads(json.dumps(frame))["fixed"][0][2] == hostile


@pytest.fixture(scope="module")
def model() -> nb.BlockModel:
    return nb.load("nano", dtype="float32")


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_replaying_the_frames_gives_the_answer(model: nb.BlockModel, strategy: str) -> None:
    wanted = nb.generate(model, PROMPT, strategy=strategy, max_new_tokens=40)
    frames = list(lane_frames(nb.prepare(model, PROMPT, strategy=strategy, max_new_tokens=40)))
    json.dumps(frames)
    finish = frames[-1]
    canvas: dict[int, str] = {}
    for frame in frames[:-1]:
        if frame["kind"] == "verify":
            kept = frame["start"] + 1 + frame["accepted"]
            canvas = {position: text for position, text in canvas.items() if position < kept}
        for position, _, text, *_ in frame["fixed"]:
            canvas[position] = text
    pieces = [canvas[position] for position in range(finish["length"])]
    assert pieces == [model.tokenizer.decode([token]) for token in wanted.token_ids]
    assert finish["text"] == wanted.text
    assert finish["metrics"]["decode_forwards"] == wanted.metrics.decode_forwards


def test_closing_the_frames_closes_the_decode(model: nb.BlockModel) -> None:
    frames = lane_frames(nb.prepare(model, PROMPT, max_new_tokens=40))
    next(frames)
    frames.close()
    assert nb.generate(model, PROMPT, max_new_tokens=4).token_ids


def test_a_delta_is_small(model: nb.BlockModel) -> None:
    frames = list(lane_frames(nb.prepare(model, PROMPT, max_new_tokens=64)))
    assert max(len(json.dumps(frame)) for frame in frames) < 3000


def figures(rate: float | None, forwards: int = 10, tokens: int = 20) -> dict:
    return {"tokens_per_second": rate, "decode_forwards": forwards, "output_tokens": tokens}


def test_the_verdict_can_say_that_either_lane_won() -> None:
    assert verdict({"AR": figures(300.0), "Block diffusion": figures(100.0)}).startswith(
        "AR won this run, 3.0 times as fast as Block diffusion (300 against 100 output tokens/s)"
    )
    assert verdict({"AR": figures(100.0), "Block diffusion": figures(150.0)}).startswith("Block diffusion won this run")


def test_the_verdict_calls_a_small_difference_a_tie() -> None:
    assert verdict({"AR": figures(100.0), "Block diffusion": figures(104.0)}).startswith("A tie in this run")


def test_the_verdict_does_not_divide_by_nothing() -> None:
    assert "Block diffusion is too short" in verdict({"AR": figures(100.0), "Block diffusion": figures(None)})
    assert verdict({"AR": figures(100.0)}) == ""


def test_the_summary_knows_lanes_by_name() -> None:
    metrics = nb.metrics.measure([RECORDED[0], RECORDED[2], Finish(0, 0.05, FinishReason.LENGTH, (5, 7, 9))])
    frames = [
        {"lane": 0, "kind": "finish", "metrics": {**figures(10.0), "prefill_seconds": metrics.prefill_seconds}},
        {"lane": 1, "kind": "finish", "metrics": figures(20.0)},
    ]
    assert summary_frame(["AR", "Block diffusion"], frames)["verdict"].startswith("Block diffusion won")
