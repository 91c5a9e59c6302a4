"""Where the panel of a token is, and which keys work where."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.playground.replaying import (
    BROWSER_TEST,
    Browser,
    clock,
    launched,
    long_race,
    opened,
    small_race,
    sync_api,
    tokens,
)

expect = sync_api.expect
pytestmark = BROWSER_TEST


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched(scroll_bars=True) as browser:
        yield browser


def test_the_panel_is_at_its_token(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, long_race(96), viewport={"width": 1000, "height": 700}) as page:
        panel = page.locator("[data-inspector]")
        expect(panel).to_be_hidden()
        for at in (0, 40, 95):
            tokens(page, "Long").nth(at).click()
            token, box = tokens(page, "Long").nth(at).bounding_box(), panel.bounding_box()
            below, above = box["y"] - token["y"] - token["height"], token["y"] - box["y"] - box["height"]
            assert min(abs(below - 8), abs(above - 8)) < 2
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= page.evaluate("document.documentElement.clientWidth") < 1000
            assert box["y"] + box["height"] <= 700
            page.keyboard.press("Escape")
            expect(panel).to_be_hidden()
            expect(tokens(page, "Long").nth(at)).to_be_focused()
        # Without room above and below, it is beside its token, which stays in view.
        page.set_viewport_size({"width": 1000, "height": 300})
        token = tokens(page, "Long").nth(40)
        token.evaluate("node => node.scrollIntoView({ block: 'center' })")
        token.click()
        token, box = token.bounding_box(), panel.bounding_box()
        assert box["x"] >= token["x"] + token["width"] or box["x"] + box["width"] <= token["x"]
        assert (box["x"] >= 0, box["y"] >= 0, box["y"] + box["height"] <= 300) == (True, True, True)


def test_the_panel_follows_its_token_when_the_page_scrolls(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race(), viewport={"width": 1000, "height": 500}) as page:
        tokens(page).nth(1).click()
        before = page.locator("[data-inspector]").bounding_box()["y"]
        page.mouse.wheel(0, 60)
        page.wait_for_function(
            "y => document.querySelector('[data-inspector]').getBoundingClientRect().y !== y", arg=before
        )


def test_on_a_phone_the_panel_is_a_sheet_at_the_bottom_that_does_not_cover_its_token(
    browser: Browser, tmp_path: Path
) -> None:
    phone = {"viewport": {"width": 380, "height": 800}, "has_touch": True, "is_mobile": True}
    with opened(browser, tmp_path, long_race(96), **phone) as page:
        tokens(page, "Long").nth(20).tap()
        panel = page.locator("[data-inspector]")
        box = panel.bounding_box()
        assert (box["x"], box["width"], round(box["y"] + box["height"])) == (0, 380, 800)
        page.wait_for_function(
            "() => document.querySelector('.pinned').getBoundingClientRect().bottom"
            " <= document.querySelector('[data-inspector]').getBoundingClientRect().top"
        )
        panel.get_by_role("button", name="Close").tap()
        expect(panel).to_be_hidden()


def test_enter_moves_the_focus_to_the_panel_and_escape_back(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        tokens(page).nth(1).focus()
        page.keyboard.press("Enter")
        expect(page.locator("[data-inspector]")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Close")).to_be_focused()
        page.keyboard.press("Escape")
        expect(tokens(page).nth(1)).to_be_focused()


def test_keys_work_at_once_and_outside_the_stage_but_not_in_a_field(browser: Browser, tmp_path: Path) -> None:
    def with_form(html: str) -> str:
        return html.replace("<main", "<input id=field value=ab><button id=beside>Beside</button><main", 1)

    with opened(browser, tmp_path, small_race(), with_form) as page:
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Home")
        assert clock(page) == 0
        page.locator("#beside").focus()
        page.keyboard.press("ArrowRight")
        assert clock(page) == 0.01
        page.locator("#field").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("End")
        assert clock(page) == 0.01
        page.evaluate("document.querySelector('#stage').style.display = 'none'")
        page.locator("#beside").focus()
        page.keyboard.press("End")
        page.evaluate("document.querySelector('#stage').style.display = ''")
        assert clock(page) == 0.01


def test_on_a_phone_the_strip_chooses_the_lane(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race(), viewport={"width": 380, "height": 800}) as page:
        assert page.locator(".lane h2:visible").all_inner_texts() == ["Block diffusion"]
        page.locator("[data-strip]").get_by_role("button", name="Self-speculation").click()
        assert page.locator(".lane h2:visible").all_inner_texts() == ["Self-speculation"]
        lane = page.get_by_role("region", name="Self-speculation")
        assert lane.bounding_box()["y"] < page.locator("[data-verdict]").bounding_box()["y"]
        page.set_viewport_size({"width": 1200, "height": 800})
        expect(page.locator(".lane h2:visible")).to_have_count(2)
