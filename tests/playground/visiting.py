"""Steps of a visitor in Chromium: open the page, run, wait. For the tests of the page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.playground.serving import Server

sync_api = pytest.importorskip("playwright.sync_api")
Browser, Page, expect = sync_api.Browser, sync_api.Page, sync_api.expect

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
BROWSER_TEST = [
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
PATIENCE = 120_000  # ms until a test fails; the machine may be busy
expect.set_options(timeout=PATIENCE)

STORY = "Tell a short story about Max, a mouse and a green key."
FIGURES = ("Output tokens/s", "Tokens per forward", "Forwards", "Prefill", "First token", "Total time")
NAMES = ("AR", "Block diffusion", "Self-speculation")


# Records the labels of the play button: an automatic replay may have ended before a test reads the label.
RECORD_PLAY_LABELS = """
window.offered = [];
new MutationObserver((records) => {
  for (const { target } of records) {
    if (target.matches("[data-play]")) window.offered.push(target.getAttribute("aria-label"));
  }
}).observe(document, { subtree: true, attributes: true, attributeFilter: ["aria-label"] });
"""

# Tabs share their storage; each test begins without what another has left in it. A reload keeps it.
FORGET = """
if (!sessionStorage.getItem("opened-by-a-test")) {
  localStorage.clear();
  sessionStorage.setItem("opened-by-a-test", "yes");
}
"""

kinds: dict[sync_api.BrowserContext, dict[str, object]] = {}  # the options of each open context


@contextmanager
def opened(browser: Browser, server: Server, at: str = "", **context: object) -> Iterator[Page]:
    """A tab on the playground. A request to another machine or a console error in it fails the test."""
    # Tabs with the same options share a context, and so its compiled scripts.
    kind = context or {"reduced_motion": "reduce"}
    shared = next((each for each in browser.contexts if kinds.get(each) == kind), None) or browser.new_context(**kind)
    kinds[shared] = kind
    page = shared.new_page()
    page.add_init_script(RECORD_PLAY_LABELS)
    page.add_init_script(FORGET)
    page.set_default_timeout(PATIENCE)
    outside, console_errors = [], []
    page.on("request", lambda request: note_request(request.url, server, outside))
    page.on("websocket", lambda socket: outside.append(socket.url))
    page.on("console", lambda message: message.type in ("error", "warning") and console_errors.append(message.text))
    page.on("pageerror", lambda error: console_errors.append(str(error)))
    page.goto(at if at.startswith("http") else server.url + "/" + at)
    page.locator("[data-lanes] > *:visible").first.wait_for()  # on a phone, one lane at a time
    try:
        yield page
        assert outside == [], outside
        assert console_errors == [], console_errors
    finally:
        page.close()


SWITCHES = ("No chat template", "Ignore end-of-text", "Chat: keep turns")


def reset(page: Page) -> None:
    """Fill the form as in a new tab, except for the prompt. The race on the stage stays."""
    page.get_by_role("tab", name="Decode", exact=True).click()
    for name in SWITCHES:
        page.get_by_label(name, exact=True).uncheck()
    limit(page).fill("96")
    # A preset that is chosen already fills in nothing.
    for name, count in (("Policies", 5), ("All strategies", 3)):
        preset(page).click()
        page.get_by_role("option", name=name, exact=True).click()
        expect(page.locator("#lanes fieldset")).to_have_count(count)


def note_request(url: str, server: Server, outside: list[str]) -> None:
    if not url.startswith((server.url, "data:", "blob:")):
        outside.append(url)


def ask(page: Page, prompt: str | None = None, max_new_tokens: str | None = None, **lane: str) -> None:
    """Fill in the form and click Run. lane: fields of the block diffusion lane, named as in LaneSpec."""
    if prompt is not None:
        page.get_by_role("textbox", name="Prompt").fill(prompt)
    if max_new_tokens is not None:
        limit(page).fill(max_new_tokens)
    for field, value in lane.items():
        set_lane(page, 1, field, value)
    forget_status(page)
    page.get_by_role("button", name="Run", exact=True).click()


# Other tabs have fields of the same name.
def limit(page: Page) -> sync_api.Locator:
    return page.get_by_label("Max new tokens", exact=True).filter(visible=True)


def preset(page: Page) -> sync_api.Locator:
    return page.get_by_label("Preset", exact=True).filter(visible=True)


def lane_form(page: Page, number: int) -> sync_api.Locator:
    page.locator("#lanes details").evaluate("node => { node.open = true; }")
    return page.locator("#lanes fieldset").nth(number)


def set_lane(page: Page, number: int, field: str, value: str) -> None:
    """Set a field of a lane as a visitor does."""
    control = lane_form(page, number).locator(f"[data-field={field}]")
    if control.evaluate("node => node.tagName") == "SELECT":
        control.select_option(value)
    else:
        control.fill(value)
        control.press("Tab")


def status(page: Page) -> sync_api.Locator:
    return page.get_by_role("status").filter(visible=True).first


def lanes(page: Page) -> list[sync_api.Locator]:
    return [page.get_by_role("region", name=name, exact=True) for name in NAMES]


def forget_status(page: Page) -> None:
    """Overwrite the status, so that a later "Finished." is that of the next run."""
    page.locator("[data-status]").evaluate("node => { node.textContent = 'Asked by a test.'; }")


def until_finished(page: Page) -> None:
    expect(status(page)).to_have_text("Finished.", timeout=PATIENCE)


def run(page: Page, prompt: str | None = None, max_new_tokens: str | None = None, **lane: str) -> None:
    """Start a run and wait for its end."""
    ask(page, prompt, max_new_tokens, **lane)
    until_finished(page)


def until_replaying(page: Page) -> None:
    """Wait until a replay has started since `offered` was emptied; it may have ended already."""
    page.wait_for_function("window.offered.includes('Pause')")
