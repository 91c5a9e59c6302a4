"""The page in a real browser: what a visitor sees, hears and can do, and what must never happen."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.playground import hostile
from tests.playground.serving import PATCHED_APP, Server, serving

sync_api = pytest.importorskip("playwright.sync_api")
Browser, Page, expect = sync_api.Browser, sync_api.Page, sync_api.expect

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no Chromium here"),
]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 30_000  # ms; the machine may be busy

STORY = "Tell a short story about Max, a mouse and a green key."
FIGURES = ("Output tokens/s", "Tokens/forward", "Forwards", "Prefill", "First token", "Total")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The playground as `python app.py` starts it."""
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose forwards take a tenth of a second, whose model speaks in scripts, and whose leases are long:
    only a tab that says goodbye frees it."""
    folder = tmp_path_factory.mktemp("slow")
    model = hostile.write(folder / "model")
    with serving(
        folder, "--model", str(model), "--lease-seconds", "60", app=PATCHED_APP, NBDIFF_TEST_SLEEP="0.1"
    ) as server:
        yield server


@contextmanager
def opened(browser: Browser, server: Server, **context: object) -> Iterator[Page]:
    """A tab on the playground that may neither leave this machine nor complain."""
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(PATIENCE)
    outside, complaints = [], []
    page.on("request", lambda request: note_request(request.url, server, outside))
    page.on("websocket", lambda socket: outside.append(socket.url))
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server.url)
    page.get_by_role("region", name="AR", exact=True).wait_for()
    try:
        yield page
        assert outside == []
        assert complaints == []
    finally:
        page.context.close()


def note_request(url: str, server: Server, outside: list[str]) -> None:
    if not url.startswith((server.url, "data:", "blob:")):
        outside.append(url)


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with opened(browser, server) as page:
        yield page


@pytest.fixture
def slow_page(browser: Browser, slow_server: Server) -> Iterator[Page]:
    with opened(browser, slow_server) as page:
        yield page


def ask(page: Page, prompt: str | None = None, **fields: str) -> None:
    if prompt is not None:
        page.get_by_role("textbox", name="Prompt").fill(prompt)
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " ").capitalize()).fill(value)
    page.get_by_role("button", name="Run", exact=True).click()


def status(page: Page) -> sync_api.Locator:
    return page.get_by_role("status").filter(visible=True).first


def lanes(page: Page) -> list[sync_api.Locator]:
    return [page.get_by_role("region", name=name, exact=True) for name in ("AR", "Block diffusion")]


def until_finished(page: Page) -> None:
    expect(status(page)).to_have_text("Finished.", timeout=PATIENCE)


# -- a run -------------------------------------------------------------------------------------------------


def test_both_lanes_end_with_text_and_their_figures_inside_them(page: Page) -> None:
    ask(page, STORY)
    until_finished(page)
    for lane in lanes(page):
        expect(lane.locator(".token.committed").nth(10)).to_be_visible()
        expect(lane.locator(".token.mask")).to_have_count(0)
        assert len(lane.locator("[data-canvas]").inner_text().split()) > 10
        for figure in FIGURES:
            pair = lane.locator("dl > div", has=page.get_by_text(figure, exact=True))
            assert re.match(r"[\d,.]+( m?s)?$", pair.locator("dd").inner_text())
    assert re.search(r"won this run|A tie", page.locator("[data-verdict]").inner_text())


def test_ar_takes_one_forward_per_token(page: Page) -> None:
    ask(page, STORY)
    until_finished(page)
    pair = lanes(page)[0].locator("dl > div", has=page.get_by_text("Tokens/forward", exact=True))
    expect(pair.locator("dd")).to_have_text("1.00")


def test_tokens_are_shaded_by_their_confidence_and_say_it_in_words(page: Page) -> None:
    ask(page, STORY)
    until_finished(page)
    tokens = lanes(page)[1].locator(".token")
    shades = set(tokens.evaluate_all("nodes => nodes.map(node => getComputedStyle(node).backgroundColor)"))
    assert len(shades) > 8
    assert re.search(r"at [\d.]+ %, .*\n.*position 3", tokens.nth(3).get_attribute("title"))


def test_a_second_run_replaces_the_first(page: Page) -> None:
    ask(page, STORY)
    until_finished(page)
    ask(page, "What is the capital of Germany?")
    expect(lanes(page)[0].locator(".token").first).to_have_text("The")
    until_finished(page)
    assert page.get_by_role("region").filter(has=page.locator("dl")).count() == 2
    assert "Max" not in lanes(page)[0].inner_text()


def test_shift_and_enter_runs_and_an_example_fills_the_prompt(page: Page) -> None:
    page.get_by_role("button", name="Name the money").click()
    prompt = page.get_by_role("textbox", name="Prompt")
    expect(prompt).to_have_value("Name the money of the country whose capital is Athens.")
    prompt.press("Shift+Enter")
    until_finished(page)


def test_the_block_size_is_what_the_lane_decodes_with(page: Page) -> None:
    ask(page, STORY, block_size="4")
    until_finished(page)
    diffusion = lanes(page)[1]
    expect(diffusion).to_contain_text("blocks of 4, threshold 0.9")
    assert diffusion.locator(".token.opens").count() > 5
    expect(lanes(page)[0].locator(".token.opens")).to_have_count(0)


# -- what is wrong is said in the page ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "fields", "sentence"),
    [
        ("  ", {}, "The prompt is empty; write something for the model to answer."),
        (STORY, {"threshold": "1.5"}, "threshold is 1.5; it must be above 0 and at most 1."),
        (STORY, {"max_new_tokens": "0"}, "max_new_tokens"),
        (STORY, {"max_new_tokens": ""}, "max_new_tokens is empty"),
        ("a b " * 1900, {}, "has a context of 1024"),
        ("x" * 9000, {}, "The prompt is 9,000 characters long"),
    ],
)
def test_bad_input_is_said_in_the_page(page: Page, prompt: str, fields: dict[str, str], sentence: str) -> None:
    ask(page, prompt, **fields)
    expect(page.get_by_role("alert").filter(visible=True)).to_contain_text(sentence)
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def test_a_message_goes_with_the_next_good_run(page: Page) -> None:
    ask(page, STORY, threshold="7")
    expect(page.get_by_role("alert").filter(visible=True)).to_be_visible()
    ask(page, STORY, threshold="0.9")
    until_finished(page)
    expect(page.get_by_role("alert").filter(visible=True)).to_have_count(0)


# -- names, sizes, colours ---------------------------------------------------------------------------------


def test_everything_has_its_name(page: Page) -> None:
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_be_editable()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    for lane in lanes(page):
        expect(lane).to_be_visible()
    for label in ("Block size", "Threshold", "Max new tokens", "Seed"):
        expect(page.get_by_label(label, exact=True)).to_be_editable()
    expect(page).to_have_title("NBDiff playground")


@pytest.mark.parametrize("width", [380, 1920])
def test_nothing_sticks_out_sideways(browser: Browser, server: Server, width: int) -> None:
    with opened(browser, server, viewport={"width": width, "height": 900}) as page:
        ask(page, "Write a Python function solve that returns the sorted list of the negative numbers in a list.")
        until_finished(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        left, right = (lane.bounding_box() for lane in lanes(page))
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
        ask(page, STORY)
        until_finished(page)
        tokens = lanes(page)[1].locator(".token")
        tokens.evaluate_all(
            "nodes => nodes.forEach((node, i) => node.style.setProperty('--p', i / (nodes.length - 1)))"
        )
        assert min(tokens.evaluate_all(CONTRASTS)) > 4.5
        assert min(page.get_by_role("button", name="Run", exact=True).evaluate_all(CONTRASTS)) > 4.5


def test_nothing_moves_for_those_who_asked_for_that(browser: Browser, server: Server) -> None:
    with opened(browser, server, reduced_motion="reduce") as page:
        ask(page)
        until_finished(page)
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
    ask(slow_page, "What is the capital of Germany?", block_size="8", threshold="1")
    masks = lanes(slow_page)[1].locator(".token.mask")
    expect(masks.first).to_be_visible()
    assert "masked, position" in masks.first.get_attribute("title")
    until_finished(slow_page)


def test_a_token_that_is_a_script_is_shown_and_not_run(slow_page: Page) -> None:
    ask(slow_page, hostile.PROMPT)
    until_finished(slow_page)
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
