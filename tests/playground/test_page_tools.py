"""The page in a browser: figures, files, links, forks, chat turns, block sizes, models."""

import re
from pathlib import Path

import pytest

import nbdiff_engine as nb
from tests.draft_adapters import write_draft_adapter
from tests.playground.serving import Server, serving
from tests.playground.visiting import (
    BROWSER_TEST,
    NAMES,
    PATIENCE,
    STORY,
    Browser,
    Page,
    expect,
    forget_status,
    lane_form,
    lanes,
    opened,
    preset,
    run,
    until_finished,
)

pytestmark = BROWSER_TEST


# -- figures, files, links, forks --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_figures_show_the_race_on_the_stage(used_page: Page) -> None:
    run(used_page, STORY)
    figures = used_page.locator("#figures")
    figures.scroll_into_view_if_needed()  # they are drawn when a visitor scrolls to them
    expect(figures.locator(".js-plotly-plot")).to_have_count(3)
    for name in NAMES:
        expect(figures.locator(".legend").first).to_contain_text(name)


@pytest.mark.slow
def test_a_link_restores_all_settings_of_a_run(browser: Browser, server: Server, page: Page) -> None:
    page.get_by_label("Ignore end-of-text").check()
    run(page, "What is the capital of Peru?", max_new_tokens="20", block_size="8")
    page.get_by_role("button", name="Copy link").click()
    link = page.locator("#link").locator("textarea, input")
    expect(link).to_have_value(re.compile(r"#run="))
    with opened(browser, server, at=link.input_value()) as other:
        until_finished(other)
        expect(other.get_by_role("textbox", name="Prompt")).to_have_value("What is the capital of Peru?")
        expect(other.get_by_label("Ignore end-of-text")).to_be_checked()
        expect(lanes(other)[1]).to_contain_text("blocks of 8, threshold 0.9")
        other.locator("[data-range]").press("End")
        expect(lanes(other)[1].locator(".token:visible")).to_have_count(20)


@pytest.mark.slow
def test_a_broken_link_gives_a_message_and_the_page_works(browser: Browser, server: Server) -> None:
    with opened(browser, server, at="#run=nonsense") as page:
        expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("This link cannot be read")
        run(page, STORY)


def test_a_race_is_exported_as_json_and_html_and_imported(used_page: Page, tmp_path: Path) -> None:
    run(used_page, STORY)
    for button, name in (("Export JSON", "race.json"), ("Export HTML", "race.html")):
        with used_page.expect_download() as waiting:
            used_page.get_by_role("button", name=button).click()
        waiting.value.save_as(tmp_path / name)
    run(used_page, "What is the capital of Germany?")
    used_page.locator("[data-file]").set_input_files(tmp_path / "race.json")
    expect(used_page.locator("[data-replaying]")).to_contain_text("Imported")
    expect(used_page.locator("#stage .title")).to_have_text(STORY)
    used_page.locator("[data-range]").press("End")
    expect(lanes(used_page)[1]).to_contain_text("Max")
    used_page.locator("#figures").scroll_into_view_if_needed()
    expect(used_page.locator("#figures .js-plotly-plot")).to_have_count(3)
    replay = used_page.context.new_page()
    replay.goto((tmp_path / "race.html").as_uri())
    replay.locator("[data-range]").press("End")
    expect(replay.get_by_role("region", name="Block diffusion", exact=True)).to_contain_text("Max")


def test_a_fork_continues_after_a_changed_token_in_a_new_lane(used_page: Page) -> None:
    run(used_page, "What is the capital of Germany?")
    used_page.locator("[data-range]").press("End")
    lanes(used_page)[1].locator(".token").nth(3).click()
    used_page.get_by_role("button", name="Replace…").click()
    used_page.get_by_label("New text").fill(" France")
    used_page.keyboard.press("Enter")
    forget_status(used_page)
    used_page.get_by_role("button", name="Continue from here").click()
    until_finished(used_page)
    expect(used_page.locator("[data-lanes] h2")).to_have_count(4)
    fork = used_page.get_by_role("region", name=re.compile("^Fork of Block diffusion"))
    used_page.locator("[data-range]").press("End")
    expect(fork).to_contain_text("France")
    expect(fork).to_contain_text("1 changed by hand")
    expect(fork.locator(".token.edited")).to_have_count(1)
    expect(lanes(used_page)[1]).not_to_contain_text("France")  # the lane that the fork came from
    expect(lanes(used_page)[1].locator(".token.edited")).to_have_count(0)


@pytest.mark.slow
def test_the_conversation_keeps_its_turns(page: Page) -> None:
    page.get_by_label("Chat: keep turns").check()
    run(page, "What is the capital of Germany?")
    turns = page.get_by_role("list", name="Conversation")
    expect(turns).to_contain_text("What is the capital of Germany?")
    expect(turns).to_contain_text("Berlin")
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("")  # for the next turn
    run(page, "What is the capital of Peru?")
    expect(turns.get_by_role("listitem")).to_have_count(2)
    turns.get_by_role("button", name=re.compile("Show the race of turn 1: AR [0-9]+ · Block")).click()
    page.locator("[data-range]").press("End")
    expect(lanes(page)[0]).to_contain_text("Germany")
    # A fork belongs to the turn that is on the stage.
    lanes(page)[1].locator(".token").nth(3).click()
    page.get_by_role("button", name="Re-mask").click()
    forget_status(page)
    page.get_by_role("button", name="Continue from here").click()
    until_finished(page)
    expect(page.locator("[data-lanes] h2")).to_have_count(4)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()  # the server has kept the fork
    expect(turns.get_by_role("button", pressed=True)).to_have_accessible_name(re.compile("turn 1"))
    page.get_by_role("button", name="New chat").click()
    expect(turns).to_have_count(0)


# -- block sizes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_block_sizes_are_compared_on_held_out_problems(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Block sizes").click()
    page.get_by_label("2", exact=True).uncheck()
    page.get_by_label("32", exact=True).uncheck()
    page.get_by_role("spinbutton", name=re.compile("Problems")).fill("2")
    page.locator("#sweep-run").click()
    expect(page.locator("#sweep-said")).to_contain_text("Done: 14 answers.", timeout=PATIENCE)
    expect(page.locator("#sweep-little")).to_contain_text("2 problems say little")
    table = page.locator("#sweep-table")
    expect(table).to_contain_text("1 = AR")
    expect(table).to_contain_text("16")
    plots = page.locator("#sweep-plots .js-plotly-plot:visible")
    expect(plots).to_have_count(4)
    expect(plots.first.locator(".legend")).to_contain_text("self-speculation")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as CSV").click()
    waiting.value.save_as(tmp_path / "sweep.csv")
    lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("model,series,setting,block_size")
    # A point leads to its answers, and an answer to the Decode tab.
    answers = page.locator("#sweep-outputs li")
    expect(answers).to_have_count(14)
    plots.nth(1).locator(".scatterlayer .point").last.click(force=True)
    expect(answers).to_have_count(2)
    answers.first.get_by_role("button", name="Open in Decode").click()
    expect(page.get_by_role("tab", name="Decode")).to_have_attribute("aria-selected", "true")
    until_finished(page)
    expect(page.locator("[data-lanes] h2")).to_have_count(2)


@pytest.mark.slow
def test_a_draft_adapter_is_a_series(browser: Browser, tmp_path: Path) -> None:
    base = nb.load("nano-ar")
    adapter = write_draft_adapter(tmp_path / "drafts", base.network, "nano-ar", block_size=4)
    with serving(tmp_path, "--model", str(adapter)) as server, opened(browser, server) as page:
        page.get_by_role("tab", name="Block sizes").click()
        expect(page.get_by_label("8", exact=True)).not_to_be_checked()  # it was made for 4
        page.get_by_role("spinbutton", name=re.compile("Problems")).fill("1")
        page.locator("#sweep-run").click()
        expect(page.locator("#sweep-said")).to_contain_text("Done:", timeout=PATIENCE)
        plots = page.locator("#sweep-plots .js-plotly-plot:visible")
        expect(plots).to_have_count(4)
        expect(plots.first.locator(".legend")).to_contain_text("self-speculation")
        table = page.locator("#sweep-table tbody tr")
        expect(table).to_have_count(3)  # AR, and blocks of 2 and 4
        for row in table.all():  # the drafts are random, and the answers AR's
            expect(row.locator("td").nth(4)).to_have_text("100%")


def test_a_sweep_of_one_prompt_shows_its_answers_and_refuses_an_empty_prompt(page: Page) -> None:
    page.get_by_role("tab", name="Block sizes").click()
    page.get_by_label("Prompts", exact=True).click()
    page.get_by_role("option", name="My prompt").click()
    page.locator("#sweep-run").click()
    expect(page.locator("#sweep-said")).to_contain_text("The prompt is empty")
    page.get_by_role("textbox", name="Prompt", exact=True).filter(visible=True).fill("What is the capital of Germany?")
    page.locator("#sweep-run").click()
    expect(page.locator("#sweep-outputs")).to_contain_text("Berlin", timeout=PATIENCE)


@pytest.mark.slow
def test_own_problems_are_uploaded_and_decoded(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "What is the capital of Germany?", "answer": "Berlin"}\n')
    page.get_by_role("tab", name="Block sizes").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload problems").click()
    chooser.value.set_files(file)
    expect(page.get_by_label("Prompts", exact=True)).to_have_value("mine.jsonl (1 problem)")
    page.locator("#sweep-run").click()
    expect(page.locator("#sweep-outputs")).to_contain_text("Berlin", timeout=PATIENCE)
    expect(page.locator("#sweep-outputs")).to_contain_text("right")


# -- models ------------------------------------------------------------------------------------------------


def test_models_are_cards_that_load_go_into_a_lane_and_start_a_training_job(page: Page) -> None:
    page.get_by_role("tab", name="Models").click()
    listed = page.locator("#models")
    expect(listed).to_contain_text("blocks of 32, token-causal context")
    size = page.viewport_size
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    for box in listed.locator("li, button").evaluate_all("all => all.map((each) => each.getBoundingClientRect())"):
        assert (box["left"] >= 0, box["right"] <= 380) == (True, True)
    page.set_viewport_size(size)
    card = listed.locator("li", has=page.get_by_role("heading", name="nano-ar"))
    expect(card).to_contain_text("AR only")
    page.get_by_role("button", name="Unload: nano-ar").click()
    expect(card.get_by_role("status")).to_have_text("nano-ar is unloaded.")  # where one looks
    page.get_by_role("button", name="Use in a lane: nano-ar").click()  # loads it first
    expect(page.locator("#lanes fieldset")).to_have_count(4)
    expect(preset(page)).to_have_value("Own lanes")
    expect(page.get_by_role("tab", name="Decode")).to_have_attribute("aria-selected", "true")
    expect(page.locator("[data-note]")).to_have_text("nano-ar is in lane 4 of the form; Run decodes with it too.")
    # An AR model keeps its diffusion options in view, with the reason and the way to change it.
    lane = lane_form(page, 3)
    assert lane.locator("[data-field=model]").input_value() == "nano-ar"
    expect(lane.locator("[data-field=strategy] option[value=block_diffusion]")).to_be_disabled()
    expect(lane.get_by_role("spinbutton", name="Block size")).to_be_disabled()
    expect(lane).to_contain_text("nano-ar decodes one token per forward")
    lane.get_by_role("button", name="Adapt nano-ar").click()
    expect(page.get_by_role("tab", name="Training")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#job-said")).to_contain_text("The form is filled for this model.")
    page.get_by_role("tab", name="Models").click()
    expect(listed.get_by_role("status")).to_have_count(0)  # listed anew: a click on a card that is replaced is lost
    page.get_by_role("button", name="Adapt: nano", exact=True).click()
    expect(page.locator("#job-preset input")).to_have_value("LoRA, any model")
    expect(page.locator("#job-base input")).to_have_value("nano")


@pytest.mark.slow
def test_a_model_is_loaded_by_its_name_or_refused_in_a_sentence(page: Page) -> None:
    page.get_by_role("tab", name="Models").click()
    page.get_by_label("Load another model", exact=True).fill("nano")
    page.get_by_label("8 bit").filter(visible=True).check()
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#model-news")).to_have_text("nano (8bit) is loaded.")
    expect(page.locator("#models")).to_contain_text("Loaded as nano (8bit)")
    page.get_by_role("tab", name="Decode").click()
    expect(lane_form(page, 0).locator("[data-field=model]")).to_contain_text("nano (8bit)")
    page.get_by_role("tab", name="Block sizes").click()
    page.get_by_label("Model", exact=True).filter(visible=True).click()
    expect(page.get_by_role("option", name="nano (8bit)")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Models").click()
    page.get_by_label("Load another model", exact=True).fill("../<b>etc</b>")
    page.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#model-news")).to_contain_text("'../<b>etc</b>' is no bundled model")
