"""The page in a real browser: names, sizes, colours, and what a slow and hostile model may not do."""

from collections.abc import Callable

import pytest

from tests.playground import hostile
from tests.playground.serving import Server
from tests.playground.visiting import (
    BROWSER_TEST,
    PATIENCE,
    STORY,
    Browser,
    Page,
    ask,
    expect,
    lane_form,
    lanes,
    opened,
    run,
    status,
    sync_api,
    until_finished,
)

pytestmark = BROWSER_TEST


# -- names, sizes, colours ---------------------------------------------------------------------------------


def test_everything_has_its_name(page: Page) -> None:
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_be_editable()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    for lane in lanes(page):
        expect(lane).to_be_visible()
    expect(page.get_by_label("Max new tokens", exact=True)).to_be_editable()
    for name in ("Model", "Strategy", "Unmasking policy"):
        expect(lane_form(page, 1).get_by_role("combobox", name=name)).to_be_enabled()
    for name in ("Block size", "Threshold", "Temperature", "Seed"):
        expect(lane_form(page, 1).get_by_role("spinbutton", name=name, exact=True)).to_be_editable()
    expect(page).to_have_title("NBDiff playground")


@pytest.mark.parametrize("width", [380, 1920])
def test_nothing_sticks_out_sideways(browser: Browser, server: Server, width: int) -> None:
    with opened(browser, server, viewport={"width": width, "height": 900}) as page:
        run(page, "Write a Python function solve that returns the sorted list of the negative numbers in a list.")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        left, right, _ = (lane.bounding_box() for lane in lanes(page))
        assert (left["y"] == right["y"]) == (width == 1920)


CONTRASTS = """
nodes => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = (colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((byte) => {
      const c = byte / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return nodes.map((node) => {
    const style = getComputedStyle(node);
    const [low, high] = [luminance(style.color), luminance(style.backgroundColor)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_can_be_read_at_every_confidence(browser: Browser, server: Server, scheme: str) -> None:
    with opened(browser, server, color_scheme=scheme, reduced_motion="reduce") as page:
        run(page, STORY)
        tokens = lanes(page)[1].locator(".token")
        tokens.evaluate_all(
            "nodes => nodes.forEach((node, i) => node.style.setProperty('--p', i / (nodes.length - 1)))"
        )
        assert min(tokens.evaluate_all(CONTRASTS)) > 4.5
        assert min(page.get_by_role("button", name="Run", exact=True).evaluate_all(CONTRASTS)) > 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_tab(browser: Browser, server: Server, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(browser, server, color_scheme=scheme, reduced_motion="reduce") as page:
        lane_form(page, 0)
        for tab in ("Decode", "Block sizes", "Models", "Training", "Jobs", "Compare"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
            found = axe.Axe().run(page).response["violations"]
            serious = [(each["id"], each["help"]) for each in found if each["impact"] in ("serious", "critical")]
            assert serious == [], tab


def test_nothing_moves_for_those_who_asked_for_that(browser: Browser, server: Server) -> None:
    with opened(browser, server, reduced_motion="reduce") as page:
        run(page)
        token = lanes(page)[0].locator(".token").first
        assert token.evaluate("node => getComputedStyle(node).transitionDuration") in ("0s", "")


# -- a slow model, which speaks in scripts -----------------------------------------------------------------


def test_lanes_fill_while_the_model_works_and_stop_ends_it(slow_page: Page) -> None:
    ask(slow_page, STORY)
    stop = slow_page.get_by_role("button", name="Stop", exact=True)
    expect(stop).to_be_enabled()
    counts = [count_when(lanes(slow_page)[0].locator(".token"), lambda n, least=least: n >= least) for least in (1, 4)]
    assert counts[0] < counts[1] < 60
    stop.click()
    expect(status(slow_page)).to_have_text("Stopped.", timeout=2_000)
    expect(lanes(slow_page)[0]).to_contain_text("stopped")
    expect(stop).to_be_disabled()


def test_a_mistake_while_a_run_is_live_leaves_it_alone(slow_page: Page) -> None:
    ask(slow_page, STORY)
    expect(status(slow_page)).to_have_text("AR is decoding.")
    ask(slow_page, "")
    expect(slow_page.get_by_role("alert").filter(visible=True)).to_contain_text("The prompt is empty")
    before = lanes(slow_page)[0].locator(".token").count()
    count_when(lanes(slow_page)[0].locator(".token"), lambda n: n > before)
    slow_page.get_by_role("button", name="Stop", exact=True).click()
    expect(status(slow_page)).to_have_text("Stopped.")


def test_masks_are_seen_before_the_tokens(slow_page: Page) -> None:
    # No confidence is above 1, so every pass fixes one token, and the rest of the block stays masked.
    ask(slow_page, "What is the capital of Germany?", block_size="8", parameter="1")
    expect(lanes(slow_page)[1].locator(".token.mask").first).to_be_visible()
    until_finished(slow_page)


def test_a_token_that_is_a_script_is_shown_and_not_run(slow_page: Page) -> None:
    run(slow_page, hostile.PROMPT)
    for lane in lanes(slow_page):
        expect(lane.locator(".token").first).to_have_text(hostile.TOKEN)
        assert lane.locator("img, script").count() == 0
    assert slow_page.evaluate("window.hacked") is None


def test_closing_the_tab_gives_the_model_to_the_next(browser: Browser, slow_server: Server, slow_page: Page) -> None:
    with opened(browser, slow_server) as first:
        ask(first, STORY)
        expect(status(first)).to_have_text("AR is decoding.")
        ask(slow_page, "What is the capital of Germany?")
        expect(status(slow_page)).to_have_text("Queued: 1 ahead of you.")
    expect(status(slow_page)).to_have_text("AR is decoding.", timeout=7_000)


def count_when(locator: sync_api.Locator, holds: Callable[[int], bool]) -> int:
    """How many there are, as soon as that number holds."""
    for _ in range(PATIENCE // 20):
        if holds(count := locator.count()):
            return count
        locator.page.wait_for_timeout(20)
    raise AssertionError("it never came to hold")
