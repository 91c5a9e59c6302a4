"""Constructed races, and pages that replay them in Chromium, for the tests of the race player."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from playground.server.replay_file import replay_html

sync_api = pytest.importorskip("playwright.sync_api")
Browser, Locator, Page = sync_api.Browser, sync_api.Locator, sync_api.Page

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
BROWSER_TEST = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no Chromium here"),
]
PATIENCE = 120_000  # ms until a test fails; the machine may be busy
sync_api.expect.set_options(timeout=PATIENCE)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
HOSTILE = '</script><img src=x onerror="window.hacked=1">'
SETTINGS = {"temperature": 0.0, "tokens_per_step": 1, "threshold": 0.9, "unmasking": "confidence", "block_size": 4}


def lane(name: str, events: list[Any], pieces: dict[str, str], **settings: Any) -> dict[str, Any]:
    trace = {
        "format": "nbdiff-trace",
        "version": 1,
        "model": "made up",
        "settings": {**SETTINGS, "strategy": "block_diffusion", **settings},
        "mask_token_id": 1,
        "prompt": "Say it",
        "prompt_ids": [5, 6],
        "pieces": pieces,
        "events": events,
    }
    fields = {"context": "token_causal", "token_shift": True, "metrics": None, "text": ""}
    return {"name": name, "about": "for a test", "trace": trace, **fields}


def small_race() -> dict[str, Any]:
    """A block of four tokens in three steps, and a draft of three tokens, of which one is accepted."""
    pieces = {str(token): text for token, text in enumerate([" one", " two", " three", " four", HOSTILE, " six"])}
    diffusion = [
        ["prefill", 0, 0.01, 2, [[0, 0, 0.6, "ar", [[1, 0.3]]]]],
        ["denoise", 0, 0.02, 0, 0, 0, 4, [[1, 1, 0.97, "over_threshold", [[2, 0.02]]]], [[2, 3, 0.4], [3, 3, 0.5]]],
        ["denoise", 0, 0.03, 0, 1, 0, 4, [[3, 4, 0.7, "most_confident", []]], [[2, 2, 0.65]]],
        ["denoise", 0, 0.04, 0, 2, 0, 4, [[2, 2, 0.95, "over_threshold", []]], []],
        ["finish", 0, 0.04, "length", [0, 1, 2, 4]],
    ]
    drafts = [[1, 1, 0.9, "draft", []], [2, 3, 0.6, "draft", []], [3, 5, 0.3, "draft", []]]
    accepted = [[1, 1, 0.99, "accepted_draft", []], [2, 2, 0.8, "correction", [[3, 0.1]]]]
    speculative = [
        ["prefill", 0, 0.01, 2, [[0, 0, 0.6, "ar", []]]],
        ["denoise", 0, 0.025, 0, 0, 0, 4, drafts, []],
        ["verify", 0, 0.035, 0, 0, 4, 1, accepted],
        ["finish", 0, 0.05, "length", [0, 1, 2]],
    ]
    lanes = [
        lane("Block diffusion", diffusion, pieces),
        lane("Self-speculation", speculative, pieces, strategy="self_speculative"),
    ]
    return {"format": "nbdiff-race", "version": 1, "title": f"A race {HOSTILE}", "verdict": HOSTILE, "lanes": lanes}


def race_of_characters() -> dict[str, Any]:
    """Two Chinese characters of three tokens each, decoded from right to left, with a stop of a special token."""
    parts = {f"{token}": f"{byte:02x}" for token, byte in enumerate("秘鲁".encode(), start=10)}
    pieces = {**dict.fromkeys(parts, "\ufffd"), "2": "<eos>"}
    events: list[Any] = [["prefill", 0, 0.01, 2, []]]
    for step, at in enumerate(reversed(range(6))):
        fixed = [[at, 10 + at, 0.9, "top_k", []]]
        events.append(["denoise", 0, 0.02 + step / 100, 0, step, 0, 7, fixed, []])
    events.append(["denoise", 0, 0.08, 0, 6, 0, 7, [[6, 2, 0.9, "top_k", []]], []])
    events.append(["finish", 0, 0.09, "eos", [*range(10, 16), 2]])
    made = lane("Block diffusion", events, pieces)
    made["trace"] |= {"version": 2, "bytes": parts, "answer_pieces": ["", "", "秘", "", "", "鲁", ""]}
    return {"format": "nbdiff-race", "version": 1, "title": "Peru", "verdict": "", "lanes": [made]}


def long_race(tokens: int = 1024, width: int = 32) -> dict[str, Any]:
    events: list[Any] = [["prefill", 0, 0.01, 2, []]]
    time = 0.01
    for block in range(tokens // width):
        start = block * width
        left = list(range(start, start + width))
        step = 0
        while left:
            time += 0.01
            now, left = left[::3], [at for i, at in enumerate(left) if i % 3]
            fixed = [[at, at % 50, 0.5 + at % 50 / 100, "over_threshold", []] for at in now]
            pending = [[at, at % 50, 0.3] for at in left]
            events.append(["denoise", 0, round(time, 3), block, step, start, start + width, fixed, pending])
            step += 1
        time += 0.01
        events.append(["commit", 0, round(time, 3), block, start, start + width, []])
    events.append(["finish", 0, round(time, 3), "length", [at % 50 for at in range(tokens)]])
    pieces = {str(token): f" word{token}" for token in range(50)}
    return {
        "format": "nbdiff-race",
        "version": 1,
        "title": "Long",
        "verdict": "",
        "lanes": [lane("Long", events, pieces)],
    }


@contextmanager
def launched(scroll_bars: bool = False) -> Iterator[Browser]:
    """scroll_bars: they take room, as on a desktop; by default Playwright hides them."""
    with sync_api.sync_playwright() as playwright:
        shown = ["--hide-scrollbars"] if scroll_bars else None
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, ignore_default_args=shown)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, folder: Path, race: dict[str, Any], change: Callable[[str], str] = str, **context: Any
) -> Iterator[Page]:
    """The replay file of the race in a tab. A request or a console error in it fails the test."""
    with page_of(browser, folder, change(replay_html(race)), **context) as page:
        yield page


@contextmanager
def page_of(browser: Browser, folder: Path, html: str, **context: Any) -> Iterator[Page]:
    """A page from a file. A request to the network or a console error in it fails the test."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    page = browser.new_context(**{"reduced_motion": "reduce", **context}).new_page()
    page.set_default_timeout(PATIENCE)
    requests, console_errors = [], []
    page.on("request", lambda request: request.url.startswith(("file:", "blob:")) or requests.append(request.url))
    page.on("console", lambda message: message.type in ("error", "warning") and console_errors.append(message.text))
    page.on("pageerror", lambda error: console_errors.append(str(error)))
    page.goto(path.as_uri())
    try:
        yield page
        assert requests == []
        assert console_errors == []
    finally:
        page.context.close()


def tokens(page: Page, name: str = "Block diffusion", kind: str = "") -> Locator:
    return page.get_by_role("region", name=name, exact=True).locator(f".token{kind}:visible")


def clock(page: Page) -> float:
    return float(page.locator("[data-clock]").inner_text().split()[0])


def move_to(page: Page, time: float) -> None:
    page.keyboard.press("Home")
    for _ in range(50):
        if clock(page) >= time:
            return
        page.keyboard.press("ArrowRight")
    raise AssertionError(f"the clock did not reach {time} s")
