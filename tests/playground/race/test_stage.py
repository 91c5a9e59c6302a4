"""The stage in a browser, with stand-ins for Gradio and the server: live, finished and lost runs, forks, and errors."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from playground.race.imported_race import check_race
from playground.server import replay_file as replay
from playground.server import web_files
from playground.server.tables import player_tables
from tests.playground.replaying import (
    BROWSER_TEST,
    Browser,
    Page,
    clock,
    launched,
    move_to,
    page_of,
    small_race,
    sync_api,
    tokens,
)

expect = sync_api.expect
pytestmark = BROWSER_TEST

HARNESS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Stage</title><style>#stage { @css@ }</style></head>
<body><main id="stage">@html@</main>
<script>
const [triggered, polled, watchers] = [[], [], []];
const run = { frames: [], state: "queued", ahead: 2, message: "", lost: 0 };
const props = { value: @value@, component_id: 7 };
function put(value) { props.value = { serial: Math.random(), ...value }; watchers.forEach((call) => call()); }
const server = {
  async poll(message) {
    polled.push(performance.now());
    if (run.lost > 0) {
      run.lost -= 1;
      if (run.lost === 0) run.held = new Promise((resolve) => { run.release = resolve; });
      throw new Error("no answer");
    }
    await run.held;
    const { frames, state, ahead, message: text } = run;
    return { frames: frames.slice(message.cursor), cursor: frames.length, more: false, state, ahead, message: text };
  },
  async sources() { return @sources@; },
};
(function (element, trigger, props, server, upload, watch) {
@js@
})(document.getElementById("stage"), (name, data) => triggered.push([name, data]), props, server, null,
  (name, call) => watchers.push(call));
</script></body></html>
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@contextmanager
def staged(browser: Browser, folder: Path, value: dict[str, Any]) -> Iterator[Page]:
    def in_script(data: Any) -> str:
        return json.dumps(data).replace("<", "\\u003c")

    slots = {
        "css": replay.styles(),
        "html": web_files.read("stage.html"),
        "js": replay.script("stage.js"),
        "value": in_script(value),
        "sources": in_script(replay.sources()),
    }
    html = re.sub(r"@(\w+)@", lambda slot: slots[slot[1]], HARNESS)
    with page_of(browser, folder, html) as page:
        yield page


def frames_of(race: dict[str, Any]) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    for number, lane in enumerate(race["lanes"]):
        trace = lane["trace"]
        header = {key: each for key, each in trace.items() if key not in ("events", "pieces")}
        fields = {key: lane[key] for key in ("name", "about", "context", "token_shift")}
        frames.append({"lane": number, "kind": "open", "header": header, **fields})
        for k, event in enumerate(trace["events"]):
            pieces = {} if k else trace["pieces"]
            frames.append({"lane": number, "kind": "event", "event": event, "pieces": pieces})
        metrics = {"output_tokens": 4, "prefill_seconds": 0.01, "decode_seconds": 0.03, "decode_forwards": 3}
        frames.append({"lane": number, "kind": "done", "metrics": metrics, "text": ""})
    return [*frames, {"kind": "summary", "verdict": race["verdict"]}]


def value_of(shown: dict[str, Any], **changed: Any) -> dict[str, Any]:
    lanes = [{"name": lane["name"], "about": lane["about"]} for lane in shown["lanes"]]
    return {
        "run": "r1",
        "race": None,
        "recorded": False,
        "lanes": lanes,
        "keep": 0,
        "error": "",
        "note": "",
        "tables": player_tables(),
        **changed,
    }


def send(page: Page, frames: list[dict[str, Any]], state: str = "running") -> None:
    page.evaluate("([frames, state]) => { run.frames.push(...frames); run.state = state; }", [frames, state])


def names_of(page: Page) -> list[str]:
    return page.get_by_role("region").locator("h2").all_inner_texts()


def triggers(page: Page) -> list[str]:
    return page.evaluate("triggered.map(([name]) => name)")


def test_a_live_run_is_shown_and_then_replayed(browser: Browser, tmp_path: Path) -> None:
    race = {**small_race(), "verdict": "A tie."}
    frames = frames_of(race)
    with staged(browser, tmp_path, value_of(race, note="Blocks are wide.")) as page:
        expect(page.locator("[data-status]")).to_have_text("Queued: 2 runs before this one.")
        expect(page.locator("[data-note]")).to_have_text("Blocks are wide.")
        assert names_of(page) == ["Block diffusion", "Self-speculation"]
        expect(page.locator("body[data-decoding]")).to_have_count(1)  # the figures are those of the race before
        send(page, frames[:4])
        expect(page.locator("[data-replaying]")).to_have_text("Live")
        expect(tokens(page, kind=".mask")).to_have_count(1)
        expect(page.locator("[data-status]")).to_have_text("Block diffusion is decoding.")
        expect(page.locator("[data-transport]")).to_be_hidden()
        expect(page.locator("[data-fork]")).to_be_hidden()
        send(page, frames[4:], "finished")
        expect(page.locator("[data-status]")).to_have_text("Finished.")
        expect(page.locator("[data-verdict]")).to_have_text("A tie.")
        expect(page.locator("body[data-decoding]")).to_have_count(0)
        expect(page.locator("[data-replaying]")).to_contain_text("Replay at")
        assert triggers(page) == ["ended"]
        assert clock(page) == 0.05
        page.keyboard.press("Home")
        expect(tokens(page)).to_have_count(0)


def test_the_page_polls_at_most_20_times_per_second(browser: Browser, tmp_path: Path) -> None:
    race = small_race()
    with staged(browser, tmp_path, value_of(race)) as page:
        send(page, frames_of(race)[:2])
        page.wait_for_function("polled.length > 12")
        between = page.evaluate("polled.slice(2).map((at, index) => at - polled[index + 1]).slice(0, -1)")
        assert len(between) > 5
        assert min(between) >= 49


def test_an_error_or_a_note_alone_does_not_change_the_race_on_the_stage(browser: Browser, tmp_path: Path) -> None:
    race = small_race()
    with staged(browser, tmp_path, value_of(race, run=None, race=race, recorded=True)) as page:
        expect(page.locator("[data-replaying]")).to_contain_text("Recorded")
        page.evaluate("put({ run: null, error: 'The prompt is empty.' })")
        expect(page.get_by_role("alert").filter(visible=True)).to_have_text("The prompt is empty.")
        page.evaluate("put({ run: 'old', lanes: [], note: 'Lane 4 is new.', stays: true })")
        expect(page.locator("[data-note]")).to_have_text("Lane 4 is new.")
        expect(page.locator("[data-replaying]")).to_contain_text("Recorded")
        assert len(names_of(page)) == 2
        page.evaluate("put({ run: 'r1', lanes: [{ name: 'AR', about: '' }], error: '' })")
        expect(page.locator("[data-error]")).to_be_hidden()
        assert names_of(page) == ["AR"]


def test_a_lost_connection_gives_a_message_and_polling_continues(browser: Browser, tmp_path: Path) -> None:
    race = small_race()
    with staged(browser, tmp_path, value_of(race)) as page:
        page.evaluate("run.lost = 3")  # three polls fail; the next one waits for `release`
        expect(page.locator("[data-status]")).to_have_text("The connection is lost; trying again.")
        page.wait_for_function("run.release !== undefined")
        expect(page.locator("[data-status]")).to_have_text("The connection is lost; trying again.")
        send(page, frames_of(race), "finished")
        page.evaluate("run.release()")
        expect(page.locator("[data-status]")).to_have_text("Finished.")


def test_the_frames_of_a_stopped_run_can_be_replayed(browser: Browser, tmp_path: Path) -> None:
    race = small_race()
    with staged(browser, tmp_path, value_of(race)) as page:
        send(page, frames_of(race)[:4])
        expect(tokens(page, kind=".mask")).to_have_count(1)
        page.evaluate("Object.assign(run, { state: 'stopped', message: 'Stopped.' })")
        expect(page.locator("[data-badge]").first).to_have_text("stopped")
        expect(page.locator("[data-transport]")).to_be_visible()
        assert clock(page) == 0.03
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Export JSON").click()
        waiting.value.save_as(tmp_path / "stopped.json")
        page.locator("[data-file]").set_input_files(tmp_path / "stopped.json")
        expect(page.locator("[data-replaying]")).to_contain_text("Imported")
        assert names_of(page) == ["Block diffusion"]
        expect(page.locator("[data-badge]")).to_have_text("not finished")
        expect(tokens(page, kind=".mask")).to_have_count(1)
        assert check_race(json.loads((tmp_path / "stopped.json").read_text())).lanes[0].metrics is None


def test_a_fork_is_sent_and_becomes_another_lane(browser: Browser, tmp_path: Path) -> None:
    race = {**small_race(), "verdict": "A tie."}
    with staged(browser, tmp_path, value_of(race, run=None, race=race)) as page:
        page.locator("[data-stage]").focus()
        move_to(page, 0.02)
        tokens(page).nth(1).click()
        page.get_by_role("button", name="Re-mask").click()
        expect(tokens(page, kind=".mask")).to_have_count(3)
        page.get_by_label("Policy").select_option(label="Top-2 margin")
        page.get_by_role("spinbutton", name="Margin").fill("0.4")
        page.get_by_role("button", name="Continue from here").click()
        name, fork = page.evaluate("triggered.at(-1)")
        assert name == "fork"
        assert fork["changes"] == [[1, None]]
        assert fork["settings"] == {"unmasking": "margin", "margin": 0.4}
        page.evaluate("([value, keep]) => put({ ...value, keep })", [value_of({"lanes": race["lanes"][:1]}), 2])
        assert len(names_of(page)) == 3
        expect(page.get_by_role("region").first.locator(".token.mask:visible")).to_have_count(
            0
        )  # it has no change, and is shown whole
        send(page, frames_of({"lanes": race["lanes"][:1], "verdict": ""}), "finished")
        expect(page.locator("[data-status]")).to_have_text("Finished.")
        expect(page.get_by_role("region").nth(2).locator(".token:visible")).to_have_count(4)
        expect(page.locator("[data-verdict]")).to_have_text("A tie.")
        page.locator("[data-stage]").focus()
        page.keyboard.press("Home")
        expect(page.locator(".lane .token:visible")).to_have_count(0)  # one clock for the old and the new lanes


def test_an_exported_race_replays_the_same_and_an_imported_one_is_sent(browser: Browser, tmp_path: Path) -> None:
    race = small_race()
    with staged(browser, tmp_path, value_of(race, run=None, race=race)) as page:
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Export HTML").click()
        waiting.value.save_as(tmp_path / "out.html")
        states = states_of(page)
        (tmp_path / "in.json").write_text(json.dumps(race), encoding="utf-8")
        page.locator("[data-file]").set_input_files(tmp_path / "in.json")
        expect(page.locator("[data-replaying]")).to_contain_text("Imported")
        _, sent = page.evaluate("triggered.find(([name]) => name === 'imported')")
        assert [lane["trace"] for lane in sent["race"]["lanes"]] == [lane["trace"] for lane in race["lanes"]]
    with page_of(browser, tmp_path, (tmp_path / "out.html").read_text(encoding="utf-8")) as page:
        assert states_of(page) == states
        assert page.evaluate("window.hacked") is None


def states_of(page: Page) -> list[list[str]]:
    page.locator("[data-stage]").focus()
    page.keyboard.press("Home")
    seen = []
    for _ in range(7):
        page.keyboard.press("ArrowRight")
        seen.append(page.locator(".lane .token:visible").evaluate_all("all => all.map((each) => each.outerHTML)"))
    return seen
