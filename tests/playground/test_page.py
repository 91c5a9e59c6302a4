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
NAMES = ("AR", "Block diffusion", "Self-speculation")


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


kinds: dict[sync_api.BrowserContext, dict[str, object]] = {}  # what each open context was made with


@contextmanager
def opened(browser: Browser, server: Server, at: str = "", **context: object) -> Iterator[Page]:
    """A tab on the playground that may neither leave this machine nor complain."""
    # Tabs of one kind share a context, and with it the scripts that have been read and compiled.
    kind = context or {"reduced_motion": "reduce"}
    shared = next((each for each in browser.contexts if kinds[each] == kind), None) or browser.new_context(**kind)
    kinds[shared] = kind
    page = shared.new_page()
    page.set_default_timeout(PATIENCE)
    outside, complaints = [], []
    page.on("request", lambda request: note_request(request.url, server, outside))
    page.on("websocket", lambda socket: outside.append(socket.url))
    page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(at if at.startswith("http") else server.url + "/" + at)
    page.get_by_role("region", name="AR", exact=True).wait_for()
    try:
        yield page
        assert outside == []
        assert complaints == []
    finally:
        page.close()


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


def ask(page: Page, prompt: str | None = None, max_new_tokens: str | None = None, **lane: str) -> None:
    """Fill in and run. lane: fields of the block diffusion lane, by their names in a LaneSpec."""
    if prompt is not None:
        page.get_by_role("textbox", name="Prompt").fill(prompt)
    if max_new_tokens is not None:
        page.get_by_label("Max new tokens").fill(max_new_tokens)
    for field, value in lane.items():
        set_lane(page, 1, field, value)
    page.get_by_role("button", name="Run", exact=True).click()


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


def until_finished(page: Page) -> None:
    expect(status(page)).to_have_text("Finished.", timeout=PATIENCE)


def run(page: Page, prompt: str | None = None, max_new_tokens: str | None = None, **lane: str) -> None:
    """Ask and wait for the end: of this run, not of the one before."""
    ask(page, prompt, max_new_tokens, **lane)
    expect(page.locator("[data-replaying]")).to_have_text("Live")
    until_finished(page)


# -- the first sight ---------------------------------------------------------------------------------------


def test_the_page_opens_on_a_recorded_race_that_replays(browser: Browser, server: Server) -> None:
    with opened(browser, server, reduced_motion="no-preference") as page:
        expect(page.locator("[data-replaying]")).to_contain_text("Recorded · Replay at 1/")
        expect(page.locator("[data-play]")).to_have_attribute("aria-label", "Pause")
        expect(lanes(page)[0].locator(".token.committed").nth(5)).to_be_visible()
        expect(page.locator("[data-verdict]")).to_contain_text("than AR")


def test_run_replaces_the_recorded_race(page: Page) -> None:
    ask(page, STORY)
    expect(page.locator("[data-replaying]")).not_to_contain_text("Recorded")
    until_finished(page)
    expect(page.locator("[data-replaying]")).to_contain_text("Replay at")


# -- a run -------------------------------------------------------------------------------------------------


def test_every_lane_ends_with_text_and_its_figures_inside_it(page: Page) -> None:
    run(page, STORY)
    page.locator("[data-range]").press("End")
    for lane in lanes(page):
        expect(lane.locator(".token.committed").nth(10)).to_be_visible()
        expect(lane.locator(".token.mask")).to_have_count(0)
        assert len(lane.locator("[data-canvas]").inner_text().split()) > 10
        for figure in FIGURES:
            pair = lane.locator("dl > div", has=page.get_by_text(figure, exact=True))
            assert re.match(r"[\d,.]+( m?s)?$", pair.locator("dd").inner_text())
    assert re.search(r"finished|as many tokens|A tie", page.locator("[data-verdict]").inner_text())
    ar = lanes(page)[0].locator("dl > div", has=page.get_by_text("Tokens/forward", exact=True))
    expect(ar.locator("dd")).to_have_text("1.00")
    self_speculative = lanes(page)[2].locator("dl > div", has=page.get_by_text("Drafts kept", exact=True))
    assert re.fullmatch(r"\d+ of \d+", self_speculative.locator("dd").inner_text())


def test_a_finished_race_is_replayed_on_one_clock(browser: Browser, server: Server) -> None:
    with opened(browser, server, reduced_motion="no-preference") as page:
        run(page, STORY)
        expect(page.locator("[data-play]")).to_have_attribute("aria-label", "Pause")
        page.locator("[data-play]").click()
        page.locator("[data-range]").press("Home")
        for lane in lanes(page):
            expect(lane.locator(".token:visible")).to_have_count(0)


def test_a_token_says_why_it_was_fixed(page: Page) -> None:
    run(page, STORY)
    page.locator("[data-range]").press("End")
    lanes(page)[1].locator(".token").nth(3).hover()
    panel = page.locator("[data-inspector]")
    expect(panel).to_contain_text(re.compile(r"is above the threshold 0\.9|highest of its pass|AR's"))
    expect(panel).to_contain_text("position 3 · block 1 · fixed")
    expect(panel.locator("[data-bars] li").nth(1)).to_be_visible()


def test_a_second_run_replaces_the_first(page: Page) -> None:
    run(page, STORY)
    run(page, "What is the capital of Germany?")
    page.locator("[data-range]").press("End")
    expect(lanes(page)[0].locator(".token").first).to_have_text("The")
    assert page.get_by_role("region").filter(has=page.locator("dl")).count() == 3
    assert "Max" not in lanes(page)[0].inner_text()


def test_shift_and_enter_runs_and_an_example_fills_the_prompt(page: Page) -> None:
    page.get_by_role("button", name="A fact").click()
    prompt = page.get_by_role("textbox", name="Prompt")
    expect(prompt).to_have_value("Name the money of the country whose capital is Athens.")
    prompt.press("Shift+Enter")
    until_finished(page)


# -- lanes and presets -------------------------------------------------------------------------------------


def test_what_is_set_in_a_lane_is_what_it_decodes_with(page: Page) -> None:
    run(page, STORY, block_size="4", parameter="0.7")
    page.locator("[data-range]").press("End")
    diffusion = lanes(page)[1]
    expect(diffusion).to_contain_text("blocks of 4, threshold 0.7")
    assert diffusion.locator(".token.opens").count() > 5
    expect(lanes(page)[0].locator(".token.opens")).to_have_count(0)


def test_a_lane_takes_another_policy_and_asks_for_its_parameter(page: Page) -> None:
    set_lane(page, 1, "unmasking", "fixed_steps")
    expect(lane_form(page, 1).locator("[data-parameter-label]")).to_have_text("Steps per block")
    set_lane(page, 1, "parameter", "4")
    run(page, STORY)
    expect(lanes(page)[1]).to_contain_text("4 steps a block")


def test_a_lane_is_switched_off_added_and_given_another_model(page: Page) -> None:
    form = lane_form(page, 2)
    form.get_by_role("checkbox").uncheck()
    page.get_by_role("button", name="Add a lane").click()
    set_lane(page, 3, "model", "nano-ar")
    set_lane(page, 3, "temperature", "0.5")
    lane_form(page, 3).get_by_role("checkbox").check()
    run(page, STORY)
    names = page.locator("[data-lanes] h2").all_inner_texts()
    assert len(names) == 3
    assert "Self-speculation" not in names
    expect(page.locator("[data-lanes]")).to_contain_text("nano-ar, one token a forward, temperature 0.5, seed 0")


def test_a_preset_sets_the_lanes(page: Page) -> None:
    page.get_by_label("Preset").click()
    page.get_by_role("option", name="Policies").click()
    expect(page.locator("#lanes fieldset")).to_have_count(5)
    run(page, STORY)
    names = page.locator("[data-lanes] h2").all_inner_texts()
    assert len(set(names)) == 5
    assert any("entropy bound" in name for name in names)


def test_a_fixed_length_is_kept_by_every_lane(page: Page) -> None:
    page.get_by_label("Fixed length").check()
    run(page, "What is the capital of Germany?", max_new_tokens="48")
    page.locator("[data-range]").press("End")
    for lane in lanes(page):
        expect(lane.locator(".token:visible")).to_have_count(48)


# -- figures, files, links, forks --------------------------------------------------------------------------


def test_the_figures_are_of_the_race_on_the_stage(page: Page) -> None:
    run(page, STORY)
    figures = page.locator("#figures")
    expect(figures.locator(".js-plotly-plot")).to_have_count(3)
    for name in NAMES:
        expect(figures.locator(".legend").first).to_contain_text(name)


def test_a_link_restores_the_whole_run(browser: Browser, server: Server, page: Page) -> None:
    page.get_by_label("Fixed length").check()
    run(page, "What is the capital of Peru?", max_new_tokens="20", block_size="8")
    page.get_by_role("button", name="Copy link").click()
    link = page.locator("#link").locator("textarea, input")
    expect(link).to_have_value(re.compile(r"#run="))
    with opened(browser, server, at=link.input_value()) as other:
        until_finished(other)
        expect(other.get_by_role("textbox", name="Prompt")).to_have_value("What is the capital of Peru?")
        expect(other.get_by_label("Fixed length")).to_be_checked()
        expect(lanes(other)[1]).to_contain_text("blocks of 8, threshold 0.9")
        other.locator("[data-range]").press("End")
        expect(lanes(other)[1].locator(".token:visible")).to_have_count(20)


def test_a_broken_link_is_said_and_the_page_works(browser: Browser, server: Server) -> None:
    with opened(browser, server, at="#run=nonsense") as page:
        expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("This link cannot be read")
        run(page, STORY)


def test_a_race_goes_out_as_json_and_html_and_comes_back(page: Page, tmp_path: Path) -> None:
    run(page, STORY)
    for button, name in (("Export JSON", "race.json"), ("Export HTML", "race.html")):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=button).click()
        waiting.value.save_as(tmp_path / name)
    run(page, "What is the capital of Germany?")
    page.locator("[data-file]").set_input_files(tmp_path / "race.json")
    expect(page.locator("[data-replaying]")).to_contain_text("Imported")
    expect(page.locator("#stage .title")).to_have_text(STORY)
    page.locator("[data-range]").press("End")
    expect(lanes(page)[1]).to_contain_text("Max")
    expect(page.locator("#figures .js-plotly-plot")).to_have_count(3)
    alone = page.context.new_page()
    alone.goto((tmp_path / "race.html").as_uri())
    alone.locator("[data-range]").press("End")
    expect(alone.get_by_role("region", name="Block diffusion", exact=True)).to_contain_text("Max")


def test_a_fork_goes_on_from_a_changed_token_in_a_new_lane(page: Page) -> None:
    run(page, "What is the capital of Germany?")
    page.locator("[data-range]").press("End")
    lanes(page)[1].locator(".token").nth(3).click()
    page.get_by_role("button", name="Replace…").click()
    page.get_by_label("Text to put here").fill(" France")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Continue from here").click()
    until_finished(page)
    expect(page.locator("[data-lanes] h2")).to_have_count(4)
    fork = page.get_by_role("region", name=re.compile("^Fork of Block diffusion"))
    page.locator("[data-range]").press("End")
    expect(fork).to_contain_text("France")
    expect(fork).to_contain_text("1 changed by hand")
    expect(fork.locator(".token.edited")).to_have_count(1)


def test_the_conversation_keeps_its_turns(page: Page) -> None:
    page.get_by_label("Chat: keep turns").check()
    run(page, "What is the capital of Germany?")
    turn = page.get_by_label("1. What is the capital of Germany?")
    expect(turn).to_be_visible()
    run(page, "What is the capital of Peru?")
    expect(page.get_by_label("2. What is the capital of Peru?")).to_be_visible()
    turn.click()
    page.locator("[data-range]").press("End")
    expect(lanes(page)[0]).to_contain_text("Germany")
    page.get_by_role("button", name="Forget it").click()
    expect(turn).to_have_count(0)


# -- block sizes -------------------------------------------------------------------------------------------


def test_block_sizes_are_compared_on_held_out_problems(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Block sizes").click()
    page.get_by_label("2", exact=True).uncheck()
    page.get_by_label("32", exact=True).uncheck()
    page.get_by_role("spinbutton", name=re.compile("Problems")).fill("2")
    page.locator("#sweep-run").click()
    expect(page.locator("#sweep-said")).to_contain_text("of 8 answers")
    expect(page.locator("#sweep-said")).to_contain_text("Done: 8 answers.", timeout=PATIENCE)
    table = page.locator("#sweep-table")
    expect(table).to_contain_text("1 = AR")
    expect(table).to_contain_text("16")
    expect(page.locator(".js-plotly-plot:visible")).to_have_count(3)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as CSV").click()
    waiting.value.save_as(tmp_path / "sweep.csv")
    lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("model,series,setting,block_size")


def test_a_sweep_of_one_prompt_shows_the_answers_and_a_mistake_is_said(page: Page) -> None:
    page.get_by_role("tab", name="Block sizes").click()
    page.get_by_label("Decode", exact=True).click()
    page.get_by_role("option", name="My prompt").click()
    page.locator("#sweep-run").click()
    expect(page.locator("#sweep-said")).to_contain_text("The prompt is empty")
    page.get_by_role("textbox", name="Prompt", exact=True).filter(visible=True).fill("What is the capital of Germany?")
    page.locator("#sweep-run").click()
    expect(page.locator("#sweep-outputs")).to_contain_text("Berlin", timeout=PATIENCE)


# -- models ------------------------------------------------------------------------------------------------


def test_the_models_tab_says_what_is_loaded_and_loads_more(page: Page) -> None:
    page.get_by_role("tab", name="Models").click()
    table = page.locator("#models")
    expect(table).to_contain_text("nano-ar")
    expect(table).to_contain_text("blocks of 32, token-causal context")
    page.get_by_label("Load a model", exact=True).fill("nano")
    page.get_by_label("8 bit").check()
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#model-news")).to_have_text("nano (8bit) is loaded.")
    expect(table).to_contain_text("nano (8bit)")
    page.get_by_role("tab", name="Decode").click()
    assert "nano (8bit)" in lane_form(page, 0).locator("[data-field=model]").inner_text()
    page.get_by_role("tab", name="Block sizes").click()
    page.get_by_label("Model", exact=True).filter(visible=True).click()
    expect(page.get_by_role("option", name="nano (8bit)")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Models").click()
    page.get_by_label("Load a model", exact=True).fill("../<b>etc</b>")
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#model-news")).to_contain_text("'../<b>etc</b>' is no bundled model")


# -- what is wrong is said in the page ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "fields", "sentence"),
    [
        ("  ", {}, "The prompt is empty; write something for the model to answer."),
        (STORY, {"parameter": "1.5"}, "threshold is 1.5; it must be above 0 and at most 1."),
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
    ask(page, STORY, parameter="7")
    expect(page.get_by_role("alert").filter(visible=True)).to_be_visible()
    run(page, STORY, parameter="0.9")
    expect(page.get_by_role("alert").filter(visible=True)).to_have_count(0)


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
