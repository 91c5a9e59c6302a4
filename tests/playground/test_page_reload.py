"""A reload of the page loses nothing: the form, the tab, the last race, the run in progress, the last sweep."""

import re

import pytest

from tests.playground.serving import Gate
from tests.playground.visiting import (
    BROWSER_TEST,
    Page,
    ask,
    expect,
    lane_form,
    lanes,
    limit,
    preset,
    run,
    set_lane,
    status,
    until_finished,
)

pytestmark = BROWSER_TEST


def reload(page: Page) -> None:
    page.reload()
    page.locator("[data-lanes] > *").first.wait_for(state="attached")  # hidden, if another tab is shown


def test_the_form_and_the_last_race_survive(page: Page) -> None:
    page.get_by_label("Ignore end-of-text").check()
    run(page, "What is the capital of Peru?", max_new_tokens="20", block_size="8")
    reload(page)
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("What is the capital of Peru?")
    expect(limit(page)).to_have_value("20")
    expect(page.get_by_label("Ignore end-of-text")).to_be_checked()
    expect(lane_form(page, 1).locator("[data-field=block_size]")).to_have_value("8")
    expect(page.locator("[data-replaying]")).to_contain_text("Last race")
    page.locator("[data-range]").press("End")
    expect(lanes(page)[1]).to_contain_text("blocks of 8")
    expect(lanes(page)[1].locator(".token:visible")).to_have_count(20)
    page.locator("#figures").scroll_into_view_if_needed()
    expect(page.locator("#figures .js-plotly-plot")).to_have_count(3)
    # A fork of the race that was kept has the lanes before it on the server, too.
    lanes(page)[1].locator(".token").nth(3).click()
    page.get_by_role("button", name="Re-mask").click()
    page.get_by_role("button", name="Continue from here").click()
    until_finished(page)
    expect(page.locator("[data-lanes] h2")).to_have_count(4)
    expect(page.locator("#figures .legend").first).to_contain_text("Fork of Block diffusion")
    expect(page.locator("#figures .legend").first).to_contain_text("Self-speculation")


@pytest.mark.slow
def test_a_preset_survives(page: Page) -> None:
    preset(page).click()
    page.get_by_role("option", name="Lossless").click()
    expect(page.locator("#lanes fieldset")).to_have_count(2)
    reload(page)
    expect(page.locator("#lanes fieldset")).to_have_count(2)


@pytest.mark.slow
def test_the_tab_and_the_last_sweep_survive(page: Page) -> None:
    page.get_by_role("tab", name="Block sizes").click()
    for size in ("2", "8", "16", "32"):
        page.get_by_label(size, exact=True).filter(visible=True).uncheck()
    page.get_by_role("spinbutton", name=re.compile("Problems")).fill("1")
    page.locator("#sweep-run").click()
    expect(page.locator("#sweep-said")).to_contain_text("Done: 3 answers.")
    reload(page)
    expect(page.get_by_role("tab", name="Block sizes")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#sweep-table")).to_contain_text("1 = AR")
    expect(page.locator("#sweep-plots .js-plotly-plot:visible")).to_have_count(4)


@pytest.mark.slow
def test_a_reload_in_the_middle_of_a_run_returns_to_it(held_page: Page, gate: Gate) -> None:
    set_lane(held_page, 0, "temperature", "0")
    ask(held_page, "What is the capital of Germany?", max_new_tokens="12")
    gate.let(4)
    expect(lanes(held_page)[0].locator(".token")).to_have_count(4)
    reload(held_page)
    expect(status(held_page)).to_have_text("AR is decoding.")
    expect(held_page.locator("[data-replaying]")).to_have_text("Live")
    expect(lanes(held_page)[0].locator(".token")).to_have_count(4)
    expect(held_page.get_by_role("button", name="Stop", exact=True)).to_be_enabled()
    gate.let(2)
    expect(lanes(held_page)[0].locator(".token")).to_have_count(6)
    gate.open()
    until_finished(held_page)
    expect(held_page.locator("[data-strip] button").nth(2)).to_contain_text("text")
    reload(held_page)
    expect(held_page.locator("[data-replaying]")).to_contain_text("Last race")


@pytest.mark.slow
def test_a_damaged_storage_gives_the_recorded_race(page: Page) -> None:
    kinds = ("{", "[]", '{"format": "nbdiff-race", "version": 1, "lanes": [{}]}', '"x"')
    for first in (0, 2):  # each key gets one kind that is not JSON, or of another form, and then another
        for number, key in enumerate(("race", "form", "lanes", "tab")):
            kept = kinds[(first + number) % len(kinds)]
            page.evaluate("([key, kept]) => localStorage.setItem(`nbdiff.${key}`, kept)", [key, kept])
        page.evaluate("kept => sessionStorage.setItem('nbdiff.run', kept)", kinds[first])
        reload(page)
        expect(page.locator("[data-replaying]")).to_contain_text("Recorded")
    run(page, "What is the capital of Peru?")
