"""The page in a browser: names, sizes, colours, and its behaviour with a slow and a hostile model."""

import contextlib
import re

import pytest

from tests.playground import hostile
from tests.playground.serving import Gate, Server
from tests.playground.visiting import (
    BROWSER_TEST,
    STORY,
    Browser,
    Page,
    ask,
    expect,
    lane_form,
    lanes,
    limit,
    opened,
    run,
    status,
    until_finished,
)

pytestmark = BROWSER_TEST


# -- names, sizes, colours ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_headings_and_controls_have_their_names(page: Page) -> None:
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_be_editable()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    for lane in lanes(page):
        expect(lane).to_be_visible()
    expect(limit(page)).to_be_editable()
    for name in ("Model", "Strategy", "Unmasking policy"):
        expect(lane_form(page, 1).get_by_role("combobox", name=name)).to_be_enabled()
    for name in ("Block size", "Threshold", "Temperature", "Seed"):
        expect(lane_form(page, 1).get_by_role("spinbutton", name=name, exact=True)).to_be_editable()
    expect(page).to_have_title("NBDiff playground")


@pytest.mark.parametrize("width", [380, pytest.param(1920, marks=pytest.mark.slow)])
def test_the_page_has_no_horizontal_scroll_bar(browser: Browser, server: Server, width: int) -> None:
    with opened(browser, server, viewport={"width": width, "height": 900}) as page:
        run(page, "Write a Python function solve that returns the sorted list of the negative numbers in a list.")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # On a phone the button is below the race.
        expect(page.locator("[data-strip]")).to_be_in_viewport()
        # Measured in one call: during the replay the height of the elements above the lanes changes.
        tops = page.locator("[data-lanes] > *:visible").evaluate_all(
            "all => all.map((each) => each.getBoundingClientRect().top)"
        )
        assert (len(tops), len(set(tops))) == ((1, 1) if width == 380 else (3, 1))


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


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_tokens_have_enough_contrast_and_axe_finds_nothing_serious(
    browser: Browser, server: Server, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(browser, server, color_scheme=scheme, reduced_motion="reduce") as page:
        run(page, STORY)
        tokens = lanes(page)[1].locator(".token")
        tokens.evaluate_all(
            "nodes => nodes.forEach((node, i) => node.style.setProperty('--p', i / (nodes.length - 1)))"
        )
        assert min(tokens.evaluate_all(CONTRASTS)) > 4.5
        assert min(page.get_by_role("button", name="Run", exact=True).evaluate_all(CONTRASTS)) > 4.5
        token = lanes(page)[0].locator(".token").first
        assert token.evaluate("node => getComputedStyle(node).transitionDuration") in ("0s", "")  # reduced motion
        lane_form(page, 0)
        held = []
        page.route("**/PlotlyPlot-*.js", lambda route: held.append(route))
        for tab in ("Decode", "Block sizes", "Models", "Training", "Jobs", "Compare"):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
            if tab == "Training":  # the place of a plot whose script is not there yet
                expect(page.locator("#job-growth [aria-label='Empty value']")).to_be_attached()
            found = axe.Axe().run(page).response["violations"]
            serious = [(each["id"], each["help"]) for each in found if each["impact"] in ("serious", "critical")]
            assert serious == [], tab
            if tab == "Training":
                held[0].continue_()
                expect(page.locator("#job-growth .js-plotly-plot")).to_be_visible()


# -- a model that a test controls, and that decodes script tags --------------------------------------------


@pytest.mark.slow
def test_lanes_fill_while_the_model_works_and_stop_ends_it(held_page: Page, gate: Gate) -> None:
    ask(held_page, STORY)
    stop = held_page.get_by_role("button", name="Stop", exact=True)
    expect(stop).to_be_enabled()
    expect(held_page.locator("[data-replaying]")).to_have_text("Live")
    tokens = lanes(held_page)[0].locator(".token")
    for permitted, count in ((1, 1), (3, 4)):  # the prefill, then one token per forward
        gate.let(permitted)
        expect(tokens).to_have_count(count)
    stop.click()
    expect(status(held_page)).to_have_text("Stopped.")  # although a forward is running
    expect(lanes(held_page)[0]).to_contain_text("stopped")
    expect(stop).to_be_disabled()
    expect(tokens).to_have_count(4)


@pytest.mark.slow
def test_an_error_in_the_form_does_not_change_the_live_run(held_page: Page, gate: Gate) -> None:
    ask(held_page, STORY)
    expect(status(held_page)).to_have_text("AR is decoding.")
    ask(held_page, "")
    expect(held_page.get_by_role("alert").filter(visible=True)).to_contain_text("The prompt is empty")
    before = lanes(held_page)[0].locator(".token").count()
    gate.let(2)
    expect(lanes(held_page)[0].locator(".token")).to_have_count(before + 2)
    held_page.get_by_role("button", name="Stop", exact=True).click()
    expect(status(held_page)).to_have_text("Stopped.")


@pytest.mark.slow
def test_masks_are_shown_before_the_tokens(held_page: Page, gate: Gate) -> None:
    lane_form(held_page, 0).get_by_role("checkbox", name="Lane 1").uncheck()
    # No confidence is above 1, so each pass fixes one token, and the rest of the block stays masked.
    ask(held_page, "What is the capital of Germany?", block_size="8", parameter="1")
    gate.let(2)
    diffusion = held_page.get_by_role("region", name="Block diffusion", exact=True)
    expect(diffusion.locator(".token.mask").first).to_be_visible()
    gate.open()
    until_finished(held_page)
    expect(diffusion.locator(".token.mask:visible")).to_have_count(0)


@pytest.mark.slow
def test_a_sweep_shows_its_progress(held_page: Page, gate: Gate) -> None:
    held_page.get_by_role("tab", name="Block sizes").click()
    held_page.get_by_role("spinbutton", name="Problems").fill("1")
    held_page.locator("#sweep-run").click()
    progress = held_page.locator("#sweep-said")
    expect(progress).to_contain_text(re.compile(r"Warming up: 0 of \d+ answers"))
    held_page.locator("#sweep-stop").click()
    expect(progress).to_contain_text("Stopped.")


@pytest.mark.slow
def test_a_load_shows_its_progress_and_figures_of_the_race_before_are_grey(held_page: Page, gate: Gate) -> None:
    gate.open()
    run(held_page, STORY)
    figures = held_page.locator("#figures")
    figures.scroll_into_view_if_needed()
    plot = figures.locator(".plot-container").first
    expect(plot).to_have_css("opacity", "1")
    gate.shut()
    ask(held_page, STORY)
    expect(status(held_page)).to_have_text("AR is decoding.")
    expect(plot).to_have_css("opacity", "0.35")
    held_page.get_by_role("tab", name="Models").click()
    card = held_page.locator("#models li", has=held_page.get_by_role("heading", name="nano-ar", exact=False)).first
    held_page.get_by_role("button", name="Load: nano-ar", exact=True).click()
    expect(card.get_by_role("status")).to_have_text("Waiting for 1 run before it.")
    bar = card.locator(".going")
    expect(bar).to_be_visible()
    gate.open()
    expect(card.get_by_role("status")).to_have_text("nano-ar is loaded.")
    expect(bar).to_have_count(0)
    held_page.get_by_role("tab", name="Decode", exact=True).click()
    until_finished(held_page)
    expect(plot).to_have_css("opacity", "1")


def test_a_token_with_a_script_tag_is_shown_as_text(held_page: Page) -> None:
    run(held_page, hostile.PROMPT)
    for lane in lanes(held_page):
        expect(lane.locator(".token").first).to_have_text(hostile.TOKEN)
        assert lane.locator("img, script").count() == 0
    assert held_page.evaluate("window.hacked") is None


@pytest.mark.slow
def test_closing_a_tab_stops_its_run_and_the_next_run_starts(
    browser: Browser, held_server: Server, held_page: Page, gate: Gate
) -> None:
    with opened(browser, held_server) as first:
        ask(first, STORY)
        expect(status(first)).to_have_text("AR is decoding.")
        ask(held_page, "What is the capital of Germany?")
        expect(status(held_page)).to_have_text("Queued: 1 run before this one.")
        # Leaves the page as a closed tab does. A tab that Playwright closes on a busy machine may send no beacon.
        first.goto(held_server.url + "/theme.css")
    # When the server receives the beacon of the closed tab, its run ends after the current forward. Without the beacon
    # it would take about sixty forwards per lane.
    for _ in range(20):
        gate.let(1)
        with contextlib.suppress(AssertionError):
            expect(status(held_page)).to_have_text("AR is decoding.", timeout=5_000)
            return
    pytest.fail("the run of the closed tab did not end")
