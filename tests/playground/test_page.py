"""The page in a browser: what a visitor sees and can do with a run, and how errors are shown."""

import re

import pytest

from tests.playground.serving import Server
from tests.playground.visiting import (
    BROWSER_TEST,
    FIGURES,
    NAMES,
    STORY,
    Browser,
    Page,
    ask,
    expect,
    forget_status,
    lane_form,
    lanes,
    opened,
    preset,
    run,
    set_lane,
    sync_api,
    until_finished,
    until_replaying,
)

pytestmark = BROWSER_TEST


# -- the start ----------------------------------------------------------------------------------------------


def test_the_page_opens_on_a_recorded_race_that_replays(browser: Browser, server: Server) -> None:
    with opened(browser, server, reduced_motion="no-preference") as page:
        expect(page.locator("[data-replaying]")).to_contain_text("Recorded · Replay at 1/")
        until_replaying(page)
        expect(lanes(page)[0].locator(".token.committed").nth(5)).to_be_visible()
        expect(page.locator("[data-verdict]")).to_contain_text("as AR")
        # A run replaces it. When it has finished, it is replayed on one clock.
        page.locator("[data-range]").press("Home")  # pauses the recorded race
        page.evaluate("window.offered.length = 0")
        ask(page, STORY)
        expect(page.locator("[data-replaying]")).not_to_contain_text("Recorded")
        until_finished(page)
        expect(page.locator("[data-replaying]")).to_contain_text("Replay at")
        until_replaying(page)
        page.locator("[data-range]").press("Home")
        for lane in lanes(page):
            expect(lane.locator(".token:visible")).to_have_count(0)


def test_the_header_links_the_paper_and_says_how_it_works(used_page: Page) -> None:
    expect(used_page.get_by_role("link", name="Paper")).to_have_attribute("href", re.compile("2512.06776"))
    used_page.locator("#header summary").click()
    pictures = used_page.locator("#header figure")
    expect(pictures).to_have_count(3)
    for number, name in enumerate(NAMES):
        expect(pictures.nth(number)).to_contain_text(f"{name}: ")
        expect(pictures.nth(number).locator("svg")).to_be_visible()
    used_page.locator("#header summary").click()


def test_lanes_strip_and_controls_fit_a_small_screen_and_a_phone_shows_the_race_first(page: Page) -> None:
    size = page.viewport_size
    page.set_viewport_size({"width": 1400, "height": 900})
    run(page, STORY)
    page.locator("[data-range]").press("End")
    page.evaluate("scrollTo(0, 0)")
    for part in ("[data-strip]", "[data-verdict]", "[data-transport]", "#run", "#stop"):
        expect(page.locator(part)).to_be_in_viewport(ratio=1)
    for lane in lanes(page):
        expect(lane).to_be_in_viewport(ratio=1)
    page.set_viewport_size({"width": 380, "height": 800})
    page.evaluate("scrollTo(0, 0)")
    lane = page.locator("[data-lanes] > *:visible")
    expect(lane).to_have_count(1)
    assert lane.bounding_box()["y"] < 700
    assert page.locator("#run").bounding_box()["y"] > lane.bounding_box()["y"] + lane.bounding_box()["height"]
    page.set_viewport_size(size)


# -- a run -------------------------------------------------------------------------------------------------


def test_every_lane_shows_its_text_and_its_figures(used_page: Page) -> None:
    run(used_page, STORY)
    used_page.locator("[data-range]").press("End")
    for lane in lanes(used_page):
        expect(lane.locator(".token.committed").nth(10)).to_be_visible()
        expect(lane.locator(".token.mask")).to_have_count(0)
        assert len(lane.locator("[data-canvas]").inner_text().split()) > 10
        for figure in FIGURES:
            pair = lane.locator("dl > div", has=used_page.get_by_text(figure, exact=True))
            assert re.match(r"[\d,.]+( m?s)?$", pair.locator("dd").text_content())
    assert re.search(r"fewer forwards|equal work", used_page.locator("[data-verdict]").text_content())
    ar = lanes(used_page)[0].locator("dl > div", has=used_page.get_by_text("Tokens per forward", exact=True))
    expect(ar.locator("dd")).to_have_text("1.00")
    self_speculative = lanes(used_page)[2].locator("dl > div", has=used_page.get_by_text("Drafts accepted", exact=True))
    assert re.fullmatch(r"\d+ of \d+", self_speculative.locator("dd").text_content())


def test_the_inspector_shows_why_a_token_was_fixed(used_page: Page) -> None:
    run(used_page, STORY)
    used_page.locator("[data-range]").press("End")
    lanes(used_page)[1].locator(".token").nth(3).hover()
    panel = used_page.locator("[data-inspector]")
    expect(panel).to_contain_text(re.compile(r"is above the threshold 0\.9|highest of its pass|next token of AR"))
    expect(panel).to_contain_text("position 3 · block 1 · fixed")
    expect(panel.locator("[data-bars] li").nth(1)).to_be_visible()


def test_a_second_run_replaces_the_first(used_page: Page) -> None:
    run(used_page, STORY)
    run(used_page, "What is the capital of Germany?")
    used_page.locator("[data-range]").press("End")
    expect(lanes(used_page)[0].locator(".token").first).to_have_text("The")
    assert used_page.get_by_role("region").filter(has=used_page.locator("dl")).count() == 3
    assert "Max" not in lanes(used_page)[0].inner_text()


def test_shift_and_enter_runs_and_an_example_fills_the_prompt(used_page: Page) -> None:
    used_page.get_by_role("button", name="A fact").click()
    prompt = used_page.get_by_role("textbox", name="Prompt")
    expect(prompt).to_have_value("Name the money of the country whose capital is Athens.")
    forget_status(used_page)
    prompt.press("Shift+Enter")
    until_finished(used_page)


def test_a_prompt_in_any_language_is_run_and_shown(used_page: Page) -> None:
    prompt = "¿Cuál es la capital de Perú? 秘鲁的首都是哪里？ 👩‍🚀"
    run(used_page, prompt, max_new_tokens="8")
    expect(used_page.locator("#stage .title")).to_have_text(prompt)
    expect(used_page.locator("[data-strip] button").first).to_contain_text("forward")


# -- lanes and presets -------------------------------------------------------------------------------------


def test_a_lane_decodes_with_its_settings(page: Page) -> None:
    run(page, STORY, block_size="4", parameter="0.7")
    page.locator("[data-range]").press("End")
    diffusion = lanes(page)[1]
    expect(diffusion).to_contain_text("blocks of 4, threshold 0.7")
    assert diffusion.locator(".token.opens").count() > 5
    expect(lanes(page)[0].locator(".token.opens")).to_have_count(0)


@pytest.mark.slow
def test_the_parameter_field_of_a_lane_depends_on_its_policy(page: Page) -> None:
    set_lane(page, 1, "unmasking", "fixed_steps")
    expect(lane_form(page, 1).locator("[data-parameter-label]")).to_have_text("Steps per block")
    set_lane(page, 1, "parameter", "4")
    run(page, STORY)
    expect(lanes(page)[1]).to_contain_text("4 steps a block")


@pytest.mark.slow
def test_lanes_are_switched_off_added_and_given_another_model(page: Page) -> None:
    form = lane_form(page, 2)
    form.get_by_role("checkbox", name="Lane 3").uncheck()
    page.get_by_role("button", name="Add a lane").click()
    set_lane(page, 3, "model", "nano-ar")
    set_lane(page, 3, "temperature", "0.5")
    lane_form(page, 3).get_by_role("checkbox", name="Lane 4").check()
    run(page, STORY)
    names = page.locator("[data-lanes] h2").all_inner_texts()
    assert len(names) == 3
    assert "Self-speculation" not in names
    expect(page.locator("[data-lanes]")).to_contain_text("nano-ar, one token per forward, temperature 0.5, seed 0")


@pytest.mark.slow
def test_a_preset_sets_the_lanes(page: Page) -> None:
    preset(page).click()
    page.get_by_role("option", name="Policies").click()
    expect(page.locator("#lanes fieldset")).to_have_count(5)
    run(page, STORY)
    names = page.locator("[data-lanes] h2").all_inner_texts()
    assert len(set(names)) == 5
    assert any("entropy bound" in name for name in names)


@pytest.mark.slow
def test_a_fixed_length_is_kept_by_every_lane(page: Page) -> None:
    page.get_by_label("Ignore end-of-text").check()
    run(page, "What is the capital of Germany?", max_new_tokens="48")
    page.locator("[data-range]").press("End")
    for lane in lanes(page):
        expect(lane.locator(".token:visible")).to_have_count(48)


def test_a_list_that_is_closed_without_a_choice_changes_no_lane(page: Page) -> None:
    set_lane(page, 1, "block_size", "7")
    preset(page).click()
    expect(page.get_by_role("option", name="Policies")).to_be_visible()
    with page.expect_response("**/run/predict"):  # Gradio sends the choice that was there again
        page.get_by_role("heading", name="NBDiff playground").click()
    page.get_by_role("textbox", name="Prompt", exact=True).fill(STORY)
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("#code textarea")).to_have_value(re.compile("'block_size': 7"))
    expect(lane_form(page, 1).locator("[data-field=block_size]")).to_have_value("7")


def test_a_choice_of_a_preset_is_sent_once_so_that_it_replaces_no_later_edit(page: Page) -> None:
    sent = []

    def note(request: sync_api.Request) -> None:
        sent.append(request.post_data or "")

    page.on("request", note)
    preset(page).click()
    page.get_by_role("option", name="Policies").click()
    expect(page.locator("#lanes fieldset")).to_have_count(5)
    set_lane(page, 1, "block_size", "7")
    expect(preset(page)).to_have_value("Own lanes")  # an answer to a second event would have come before this one
    page.remove_listener("request", note)  # the tests of this module share the page
    assert sum('"Policies"' in each for each in sent) == 1
    expect(lane_form(page, 1).locator("[data-field=block_size]")).to_have_value("7")


def test_the_preset_has_the_name_of_the_lanes_in_the_form(page: Page) -> None:
    expect(preset(page)).to_have_value("All strategies")
    set_lane(page, 1, "block_size", "7")
    expect(preset(page)).to_have_value("Own lanes")
    set_lane(page, 1, "block_size", "16")
    expect(preset(page)).to_have_value("All strategies")
    lane_form(page, 2).get_by_role("button", name="Remove lane 3").click()
    expect(preset(page)).to_have_value("Own lanes")
    preset(page).click()
    page.get_by_role("option", name="Lossless").click()
    expect(page.locator("#lanes fieldset")).to_have_count(2)
    expect(lane_form(page, 1).locator("[data-field=strategy]")).to_have_value("self_speculative")
    expect(preset(page)).to_have_value("Lossless")


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "fields", "sentence"),
    [
        ("  ", {}, "The prompt is empty; write something for the model to answer."),
        (STORY, {"parameter": "1.5"}, "Lane 2, Threshold: 1.5 is not allowed; it must be above 0 and at most 1."),
        (STORY, {"max_new_tokens": "0"}, "Max new tokens: 0 is not allowed"),
        (STORY, {"max_new_tokens": ""}, "Max new tokens: it is empty"),
        ("a b " * 1900, {}, "has a context of 1024"),
        ("x" * 9000, {}, "The prompt is 9,000 characters long"),
    ],
)
def test_bad_input_gives_a_message_in_the_page(
    used_page: Page, prompt: str, fields: dict[str, str], sentence: str
) -> None:
    ask(used_page, prompt, **{"max_new_tokens": "96", "parameter": "0.9", **fields})
    expect(used_page.get_by_role("alert").filter(visible=True)).to_contain_text(sentence)
    expect(used_page.get_by_role("button", name="Stop")).to_be_disabled()


@pytest.mark.parametrize("button", ["Copy link", "Copy as Python", "Copy as curl"])
def test_a_run_that_would_be_refused_is_not_copied(used_page: Page, button: str) -> None:
    used_page.get_by_role("textbox", name="Prompt", exact=True).fill(" ")
    used_page.locator("[data-error]").evaluate("node => { node.textContent = ''; }")
    used_page.get_by_role("button", name=button).click()
    expect(used_page.get_by_role("alert").filter(visible=True)).to_contain_text("The prompt is empty")
    expect(used_page.locator("#link" if button == "Copy link" else "#code")).to_be_hidden()


def test_an_error_message_disappears_with_the_next_run(used_page: Page) -> None:
    ask(used_page, STORY, parameter="7")
    expect(used_page.get_by_role("alert").filter(visible=True)).to_be_visible()
    run(used_page, STORY, parameter="0.9")
    expect(used_page.get_by_role("alert").filter(visible=True)).to_have_count(0)
