"""The race player in a browser, in an exported HTML file that needs no server and no network."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playground.replaying import (
    BROWSER_TEST,
    HOSTILE,
    Browser,
    Page,
    clock,
    launched,
    long_race,
    move_to,
    opened,
    race_of_characters,
    small_race,
    sync_api,
    tokens,
)

expect = sync_api.expect
pytestmark = BROWSER_TEST


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def test_a_race_replays_automatically_and_shows_its_speed(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race(), with_frames_held, reduced_motion="no-preference") as page:
        expect(page.locator("[data-replaying]")).to_have_text("Recorded · Replay at 1/50 speed")
        assert page.locator("[data-play]").get_attribute("data-playing") == "true"
        assert clock(page) == 0
        page.evaluate("frames(0, 50, 100)")  # milliseconds
        assert clock(page) == 0.002
        page.get_by_role("button", name="Pause").click()
        page.evaluate("frames(200)")
        assert clock(page) == 0.002


def with_frames_held(html: str) -> str:
    """The page with animation frames that run only when a test calls `frames(...times)`, in milliseconds."""
    script = """<script>
    const waiting = [];
    window.requestAnimationFrame = (call) => waiting.push(call);
    function frames(...times) { for (const time of times) for (const call of waiting.splice(0)) call(time); }
    </script>"""
    return html.replace("<head>", "<head>" + script, 1)


def test_with_reduced_motion_the_page_shows_the_end(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        assert clock(page) == 0.05
        expect(tokens(page, kind=".mask")).to_have_count(0)
        assert tokens(page).first.evaluate("node => getComputedStyle(node).transitionDuration") in ("0s", "")


def test_keys_move_through_the_events_and_update_the_summary(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        page.keyboard.press("Home")
        expect(tokens(page)).to_have_count(0)
        seen = []
        for _ in range(4):
            page.keyboard.press("ArrowRight")
            seen.append(clock(page))
        assert seen == [0.01, 0.02, 0.025, 0.03]
        summary = page.locator("[data-summary]")
        expect(summary).to_contain_text("Block diffusion: step 2 of block 1, 3 tokens fixed, 1 masked: one two")
        page.keyboard.press("[")
        assert clock(page) == 0.025  # the start of the other lane's block
        page.keyboard.press("ArrowLeft")
        assert clock(page) == 0.02
        page.keyboard.press("End")
        page.keyboard.press(" ")
        assert page.locator("[data-play]").get_attribute("aria-label") == "Pause"


def test_every_state_of_a_token_has_its_class(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        move_to(page, 0.025)
        expect(tokens(page, kind=".mask")).to_have_count(2)
        expect(tokens(page, kind=".open")).to_have_count(2)
        expect(tokens(page, kind=".new")).to_have_count(1)
        expect(tokens(page, "Self-speculation", ".draft")).to_have_count(3)
        move_to(page, 0.035)
        expect(tokens(page, "Self-speculation", ".accepted")).to_have_text(["two"])
        expect(tokens(page, "Self-speculation", ".rejected")).to_have_text(["six"])
        assert tokens(page, "Self-speculation").nth(2).get_attribute("data-mark") == "≠"
        states = "nodes => nodes.map(node => node.dataset.state)"
        seen = tokens(page, "Self-speculation").evaluate_all(states)
        assert seen == ["committed", "committed", "open", "rejected"]
        page.keyboard.press("End")
        expect(tokens(page, "Self-speculation")).to_have_count(3)


def test_the_views_show_order_and_step_numbers_on_tokens(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        marks = "nodes => nodes.map(node => node.dataset.mark ?? '')"
        page.get_by_label("Order of unmasking").check()
        assert tokens(page).evaluate_all(marks) == ["0", "1", "3", "2"]
        page.get_by_label("Step", exact=True).check()
        assert tokens(page).evaluate_all(marks) == ["", "1", "3", "2"]
        page.get_by_label("Confidence").check()
        assert tokens(page).evaluate_all(marks) == ["", "", "", ""]


def test_the_default_speed_depends_on_the_race_and_can_be_changed(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        speed = page.get_by_label("Speed of the replay")
        slower = [f"1/{each} speed" for each in (2, 5, 10, 20, 50)]
        names = ["50x speed", "20x speed", "5x speed", "real speed", *slower]
        assert speed.locator("option").all_inner_texts() == names
        speed.select_option(label="real speed")
        expect(page.locator("[data-replaying]")).to_have_text("Recorded · Replay at real speed")
        page.get_by_role("button", name="Play").click()
        expect(page.get_by_role("button", name="Play")).to_be_visible()  # it ends after 50 ms
        assert clock(page) == 0.05
    with opened(browser, tmp_path, long_race()) as page:  # four seconds of decoding
        assert speed_of(page) == "real speed"


def speed_of(page: Page) -> str:
    return page.get_by_label("Speed of the replay").evaluate("select => select.selectedOptions[0].text")


def test_buttons_move_by_event_and_by_block(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, long_race(tokens=96)) as page:
        page.keyboard.press("Home")
        starts = []
        for _ in range(3):
            page.get_by_role("button", name="Next block").click()
            starts.append(page.locator("[data-badge]").inner_text())
        assert starts == ["11 fixed, 21 masked", "43 fixed, 21 masked", "75 fixed, 21 masked"]
        page.get_by_role("button", name="Previous block").click()
        expect(page.locator("[data-badge]")).to_have_text("43 fixed, 21 masked")
        page.get_by_role("button", name="Step forward").click()
        expect(page.locator("[data-badge]")).to_have_text("50 fixed, 14 masked")
        page.get_by_role("button", name="Step back").click()
        expect(page.locator("[data-badge]")).to_have_text("43 fixed, 21 masked")


def test_figures_of_a_lane(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        region = page.get_by_role("region", name="Self-speculation", exact=True)
        region.get_by_text("More figures").click()
        pairs = region.locator("dl > div:visible").evaluate_all(
            "all => all.map(pair => pair.innerText.split(/\\s*\\n/))"
        )
        assert dict(pairs) == {
            "Output tokens/s": "50",
            "Tokens per forward": "1.00",
            "Total time": "50.0 ms",
            "Forwards": "2",
            "Denoise": "1",
            "Commit": "1",
            "Output tokens": "3",
            "Drafts accepted": "1 of 3",
            "Prefill": "10.0 ms",
            "First token": "10.0 ms",
        }


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing_serious(browser: Browser, tmp_path: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(browser, tmp_path, small_race(), with_engine, color_scheme=scheme) as page:
        move_to(page, 0.025)
        for view in ("Confidence", "Order of unmasking", "Step"):
            page.get_by_label(view, exact=True).check()
            assert serious(axe.run(page)) == []
        tokens(page).nth(2).click()
        page.get_by_role("button", name="Attention mask").click()
        assert serious(axe.run(page)) == []


def serious(results: Any) -> list[tuple[str, str]]:
    found = results.response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]


def with_engine(html: str) -> str:
    """The page with the controls of a fork, which an exported file does not have."""
    return html.replace('data-stage]"), {},', 'data-stage]"), { fork: (fork) => { window.sentFork = fork; } },')


def test_arrow_keys_move_between_tokens_when_a_token_has_the_focus(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        tokens(page).first.focus()
        page.keyboard.press("ArrowRight")
        expect(tokens(page).nth(1)).to_be_focused()
        assert "committed, 97.0 %, position 1" in tokens(page).nth(1).get_attribute("aria-label")
        assert clock(page) == 0.05
        page.keyboard.press("Enter")
        expect(tokens(page, kind=".pinned")).to_have_text(["two"])
        page.keyboard.press("Escape")
        expect(tokens(page, kind=".pinned")).to_have_count(0)


def test_model_output_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        expect(tokens(page).nth(3)).to_have_text(HOSTILE)
        tokens(page).nth(3).click()
        expect(page.locator("[data-token]")).to_have_text(HOSTILE)
        expect(page.locator("[data-verdict]")).to_have_text(HOSTILE)
        assert page.locator("img").count() == 0
        assert page.evaluate("window.hacked") is None


def test_the_attention_mask_is_drawn_and_described(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        page.get_by_role("button", name="Attention mask").click()
        view = page.locator("[data-maskview]")
        expect(view).to_contain_text("attends to all 2 context tokens and the whole block, in both directions")
        view.get_by_label("Attention mask of").select_option(label="Self-speculation")
        expect(view).to_contain_text(
            "Verification: each token of block 1 attends to all 2 context tokens, to itself and to"
        )
        assert view.locator("canvas").bounding_box()["width"] > 20


def test_a_race_is_exported_and_imported(browser: Browser, tmp_path: Path) -> None:
    race = small_race()
    with opened(browser, tmp_path, race) as page:
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Export JSON").click()
        waiting.value.save_as(tmp_path / "out.json")
        out = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        assert [each["trace"] for each in out["lanes"]] == [each["trace"] for each in race["lanes"]]
        assert out["lanes"][1]["metrics"]["accepted"] == 1
        page.locator("[data-file]").set_input_files(tmp_path / "out.json")
        expect(page.locator("[data-replaying]")).to_contain_text("Imported")
        single = tmp_path / "trace.json"
        single.write_text(json.dumps(race["lanes"][0]["trace"]), encoding="utf-8")
        page.locator("[data-file]").set_input_files(single)
        expect(page.get_by_role("region")).to_have_count(1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda race: "{", "This file is not JSON; it may have been cut off."),
        (lambda race: [1], "This file contains neither a race nor a trace"),
        (lambda race: {**race, "version": 9}, "This race has version 9; this page reads version 1."),
        (lambda race: {**race, "lanes": []}, "This race has no lanes."),
        (
            lambda race: race["lanes"][0]["trace"]["events"].append(race["lanes"][0]["trace"]["events"][-1]) or race,
            "an event follows its finish event",
        ),
        (lambda race: race["lanes"][0]["trace"]["events"][1].__setitem__(6, 1 << 30) or race, "event 1 is not a valid"),
        (lambda race: race["lanes"][0]["trace"]["events"][1].__setitem__(0, "toString") or race, "event 1 is not"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(
    browser: Browser, tmp_path: Path, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    changed = change(small_race())
    (tmp_path / "in.json").write_text(changed if isinstance(changed, str) else json.dumps(changed), encoding="utf-8")
    with opened(browser, tmp_path, small_race()) as page:
        page.locator("[data-file]").set_input_files(tmp_path / "in.json")
        expect(page.get_by_role("alert").filter(visible=True)).to_contain_text(sentence)
        expect(page.get_by_role("region")).to_have_count(2)


def test_a_fork_contains_its_changes_and_the_event_where_it_starts(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race(), with_engine) as page:
        move_to(page, 0.02)
        tokens(page).nth(2).click()
        page.get_by_role("button", name="Fix the prediction").click()
        tokens(page).nth(1).click()
        page.get_by_role("button", name="Replace…").click()
        page.get_by_label("New text").fill(" zwei")
        page.keyboard.press("Enter")
        expect(tokens(page).nth(1)).to_have_text("zwei")
        page.get_by_role("spinbutton", name="Threshold").fill("0.5")
        page.get_by_role("button", name="Continue from here").click()
        fork = page.evaluate("window.sentFork")
        assert fork["changes"] == [[1, " zwei"], [2, 3]]
        assert fork["settings"] == {"threshold": 0.5}
        assert (fork["lane"], fork["lanes"], len(fork["trace"]["events"])) == (0, 2, 2)
        page.keyboard.press("Escape")
        page.locator("[data-forward]").click()  # an event of the other lane; this lane does not change
        expect(page.locator("[data-changes] li")).to_have_count(2)
        page.locator("[data-forward]").click()
        expect(page.locator("[data-changes] li")).to_have_count(0)


def test_an_edit_event_masks_later_tokens_and_marks_the_changed_one(browser: Browser, tmp_path: Path) -> None:
    race = small_race()
    events = race["lanes"][0]["trace"]["events"]
    events[2:] = [
        ["edit", 0, 0.02, 0, [0, 5, None, None], [1]],
        ["denoise", 0, 0.03, 0, 1, 0, 4, [[2, 2, 0.95, "over_threshold", []], [3, 3, 0.92, "over_threshold", []]], []],
        ["finish", 0, 0.03, "length", [0, 5, 2, 3]],
    ]
    with opened(browser, tmp_path, race) as page:
        move_to(page, 0.02)
        expect(tokens(page, kind=".edited")).to_have_text(["six"])
        expect(tokens(page, kind=".mask")).to_have_count(2)
        page.keyboard.press("End")
        tokens(page).nth(1).hover()
        expect(page.locator("[data-why]")).to_have_text("Changed by hand in this fork.")
        work = page.locator("[data-strip] .work").first
        expect(work).to_have_text("1 forward since the fork")
        expect(page.locator(".lane dd").first).to_have_text("1")


def test_the_layout_below_does_not_move_during_a_replay(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, long_race(tokens=96), viewport={"width": 420, "height": 900}) as page:
        page.keyboard.press("Home")
        tops = set()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
            tops.add(page.locator(".figures").evaluate("node => node.offsetTop"))
        assert len(tops) == 1


@pytest.mark.parametrize("width", [380, 768, 1440, 1920])
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_the_player_has_no_horizontal_scroll_bar(browser: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900}
    with opened(browser, tmp_path, small_race(), viewport=size, color_scheme=scheme) as page:
        page.get_by_role("button", name="Attention mask").click()
        tokens(page).nth(2).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


DRAG = """
async () => {
  const range = document.querySelector("[data-range]");
  const nodes = () => [...document.querySelectorAll(".token")];
  const before = nodes();
  const found = { frames: 90, paintings: 0, touched: 0 };
  const tokens = new MutationObserver((records) => {
    const elements = records.map(({ target }) => (target.nodeType === 3 ? target.parentNode : target));
    const slots = elements.map((element) => element.closest(".chunk > span"));
    found.touched += new Set(slots.filter(Boolean)).size;
  });
  tokens.observe(document.querySelector("[data-lanes]"),
    { subtree: true, childList: true, attributes: true, characterData: true });
  const times = new MutationObserver((records) => { found.paintings += records.length; });
  times.observe(range, { attributes: true, attributeFilter: ["aria-valuetext"] });
  for (let i = 1; i <= found.frames; i += 1) {
    for (const part of [0.2, 0.6, 1]) {
      range.value = String(Math.round((Number(range.max) * (i - 1 + part)) / found.frames));
      range.dispatchEvent(new Event("input"));
    }
    await new Promise(requestAnimationFrame);
  }
  await new Promise(requestAnimationFrame);
  const after = nodes();
  found.same = after.length === before.length && after.every((node, at) => node === before[at]);
  return found;
}
"""


def test_a_drag_over_1024_tokens_updates_only_changed_tokens(browser: Browser, tmp_path: Path) -> None:
    """benchmarks/scrub.py measures the frames per second of such a drag."""
    race = long_race()
    pieces = race["lanes"][0]["trace"]["pieces"]
    pieces["0"] += "\n"  # a line break after every fiftieth token
    with opened(browser, tmp_path, race, viewport={"width": 1280, "height": 900}) as page:
        expect(tokens(page, "Long")).to_have_count(1024)
        page.keyboard.press("Home")
        drag = page.evaluate(DRAG)
        expect(tokens(page, "Long")).to_have_count(1024)
        assert re.match(r"\d", page.locator("[data-clock]").inner_text())
        assert drag["paintings"] == drag["frames"]  # three inputs per frame, one painting
        assert drag["same"]
        # A token changes when its block opens, when it is fixed, when it is no longer new, and at the commit. Updating
        # all tokens in each frame would be 46,000 changes.
        assert 1024 <= drag["touched"] <= 6 * 1024
        # The browser does not lay out chunks that are not visible.
        chunks = page.locator(".chunk")
        assert chunks.count() > 5
        assert chunks.first.evaluate("node => getComputedStyle(node).contentVisibility") == "auto"


def test_the_texts_of_an_answer_go_out_and_come_back(browser: Browser, tmp_path: Path) -> None:
    race = race_of_characters()
    with opened(browser, tmp_path, race) as page:
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Export JSON").click()
        waiting.value.save_as(tmp_path / "out.json")
    out = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert out["lanes"][0]["trace"] == race["lanes"][0]["trace"]
    assert out["lanes"][0]["text"].startswith("秘鲁")
