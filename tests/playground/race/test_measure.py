"""The figures that the player computes from events are those of nbdiff_engine.trace.metrics; it shows candidates."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbdiff_engine as nb
from nbdiff_engine.forking import continued, fork
from nbdiff_engine.trace.metrics import measure
from nbdiff_engine.trace.trace_file import Trace
from playground.race.frames import lane_frames, race_of
from playground.server.worker import Logged
from tests.playground.replaying import BROWSER_TEST, Browser, launched, move_to, opened, small_race, sync_api, tokens

expect = sync_api.expect
pytestmark = BROWSER_TEST

PROMPT = "Tell a short story about Max, a mouse and a green key."
SETTINGS = {
    "AR": {"strategy": "ar"},
    "Block diffusion": {"strategy": "block_diffusion", "block_size": 16},
    "Self-speculation": {"strategy": "self_speculative", "block_size": 16, "draft_candidates": 8, "temperature": 0.8},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def race() -> dict[str, Any]:
    """A lane of each strategy and a fork of the second one, without the figures of Python."""
    model = nb.load("nano", dtype="float32")
    log = []
    for number, (name, settings) in enumerate(SETTINGS.items()):
        job = nb.prepare(model, PROMPT, max_new_tokens=48, **settings)
        log += [Logged(frame, number) for frame in lane_frames(name, "", job)]
    trace = race_of(log, PROMPT).lanes[1].trace
    cut = next(k for k, event in enumerate(trace.events) if type(event).__name__ == "Commit") + 2
    edit, start = fork(trace, cut, {})
    job = nb.prepare(model, list(trace.prompt_ids), start=start, **{**trace.settings, "unmasking": "top_k"})
    frames = lane_frames("Fork", "", job, lambda: continued(trace.events[:cut], edit, job))
    log += [Logged(frame, len(SETTINGS)) for frame in frames]
    made = race_of(log, PROMPT).to_json()
    return {**made, "lanes": [{**lane, "metrics": None} for lane in made["lanes"]]}


def test_the_page_computes_the_figures_of_python(browser: Browser, tmp_path: Path, race: dict[str, Any]) -> None:
    with opened(browser, tmp_path, race) as page:
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Export JSON").click()
        waiting.value.save_as(tmp_path / "out.json")
    exported = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [lane["name"] for lane in exported["lanes"]] == [*SETTINGS, "Fork"]
    for lane, given in zip(exported["lanes"], race["lanes"], strict=True):
        wanted = dataclasses.asdict(measure(Trace.from_json(given["trace"]).events))
        assert lane["metrics"] == pytest.approx(wanted, rel=1e-9), lane["name"]


def test_the_page_shows_the_figures_that_python_sent(browser: Browser, tmp_path: Path, race: dict[str, Any]) -> None:
    lanes = []
    for lane in race["lanes"]:
        metrics = dataclasses.asdict(measure(Trace.from_json(lane["trace"]).events))
        lanes.append({**lane, "metrics": {**metrics, "tokens_per_second": 1234.0, "tokens_per_forward": 5.5}})
    with opened(browser, tmp_path, {**race, "lanes": lanes}) as page:
        for name in SETTINGS:
            region = page.get_by_role("region", name=name, exact=True)
            for label, value in (("Output tokens/s", "1,234"), ("Tokens per forward", "5.50")):
                pair = region.locator("dl > div", has=page.get_by_text(label, exact=True))
                assert pair.locator("dd").text_content() == value


def test_an_accepted_candidate_is_shown_as_an_accepted_draft(browser: Browser, tmp_path: Path) -> None:
    """At position 2 the draft was another token than the candidate that the AR pass accepted."""
    race = small_race()
    trace = race["lanes"][1]["trace"]
    prefill, drafted, _, _ = trace["events"]
    accepted = [[1, 1, 0.99, "accepted_draft", []], [2, 2, 0.8, "accepted_draft", []], [3, 0, 0.9, "ar", []]]
    verified = ["verify", 0, 0.035, 0, 0, 4, 2, accepted]
    trace["events"] = [prefill, drafted, verified, ["finish", 0, 0.05, "length", [0, 1, 2, 0]]]
    trace["candidates"] = [[2, 2, 2], [2, 2, 0], [2, 1, 5]]
    with opened(browser, tmp_path, race) as page:
        move_to(page, 0.035)
        expect(tokens(page, "Self-speculation", ".accepted")).to_have_text(["two", "three"])
        expect(tokens(page, "Self-speculation", ".rejected")).to_have_count(0)
        expect(tokens(page, "Self-speculation")).to_have_text(["one", "two", "three", "one"])
