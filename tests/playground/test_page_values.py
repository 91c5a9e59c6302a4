"""Odd values in every field of the page: each is refused in words or taken, and the server writes no traceback."""

from collections.abc import Callable, Iterator

import pytest

from tests.playground.serving import Server, serving
from tests.playground.visiting import BROWSER_TEST, Browser, Page, expect, limit, opened, sync_api, until_finished

pytestmark = [*BROWSER_TEST, pytest.mark.slow]

NUMBERS = ("", "-3", "0.5", "1e30")
TEXTS = ("", "-3", "1e999", "[1, 2]", "{a: [", "\U0001f9e9 \u202e <b>" + "x" * 500)
# Lists and ticks have no text of their own.
OTHERS = "".join(f":not([type={kind}])" for kind in ("checkbox", "radio", "file", "range"))
FIELDS = ", ".join(
    f"{each}:not([disabled]):not([readonly]):visible" for each in (f"input{OTHERS}:not([role=combobox])", "textarea")
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module, so that its output is about these values alone."""
    folder = tmp_path_factory.mktemp("values")
    with serving(folder, NBDIFF_HOME=str(folder / "home")) as server:
        yield server


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with opened(browser, server) as page:
        yield page


class Answers:
    """Waits until the server has answered what the page asked."""

    def __init__(self, page: Page):
        self._page = page
        self._open: set[sync_api.Request] = set()
        page.on("request", lambda request: request.url.endswith("/run/predict") and self._open.add(request))
        page.on("requestfinished", lambda request: self._open.discard(request))
        page.on("requestfailed", lambda request: self._open.discard(request))

    def wait(self) -> None:
        self._page.wait_for_timeout(30)  # an event of the page is sent a few ms after the key
        while self._open:
            self._page.wait_for_timeout(10)


def type_in_every_field(page: Page, answers: Answers, check: Callable[[], None] = lambda: None) -> int:
    """Type each odd value in each field of the tab, one field at a time; returns how many were typed. Folded parts are
    opened."""
    page.locator("button.label-wrap:not(.open):visible").evaluate_all("all => all.forEach((each) => each.click())")
    page.locator("details").evaluate_all("all => all.forEach((each) => { each.open = true; })")
    fields, typed = page.locator(FIELDS), 0
    for field in (fields.nth(index) for index in range(fields.count())):
        known = field.input_value()
        values = NUMBERS if field.get_attribute("type") == "number" else TEXTS
        for value in (*values, known):
            field.fill(value)
            field.press("Tab")
            answers.wait()
            check()
            typed += 1
    return typed


def expect_no_failure(page: Page, server: Server) -> None:
    """No toast of Gradio, which is what it shows for an exception of a handler, and none in the server's output."""
    expect(page.locator("[data-testid=toast-body]")).to_have_count(0)
    output = server.output.read_text()
    assert "Traceback" not in output, output


def test_the_fields_of_decode(page: Page, server: Server) -> None:
    answers = Answers(page)

    def check() -> None:
        page.get_by_role("button", name="Copy as Python").click()
        answers.wait()

    assert type_in_every_field(page, answers, check) > 150
    expect_no_failure(page, server)
    # The form is as before, so it runs.
    limit(page).fill("8")
    page.get_by_role("button", name="Run", exact=True).click()
    until_finished(page)


@pytest.mark.timeout(1800)
def test_the_fields_of_training(page: Page, server: Server) -> None:
    page.get_by_role("tab", name="Training", exact=True).click()
    page.get_by_role("button", name="All settings").click()
    answers, typed = Answers(page), 0
    groups = page.locator("#every-setting").get_by_role("tab").all_inner_texts()
    assert len(groups) > 4
    for group in groups:
        page.locator("#every-setting").get_by_role("tab", name=group, exact=True).click()
        typed += type_in_every_field(page, answers)
    assert typed > 400
    expect_no_failure(page, server)
    expect(page.locator("#job-said")).not_to_contain_text("not allowed")


def test_the_fields_of_block_sizes_and_models(page: Page, server: Server) -> None:
    answers = Answers(page)
    for tab, button in (("Block sizes", "Run"), ("Models", "Load")):
        page.get_by_role("tab", name=tab, exact=True).click()

        def check(button: str = button) -> None:
            page.get_by_role("button", name=button, exact=True).filter(visible=True).first.click()
            answers.wait()

        assert type_in_every_field(page, answers, check) >= 7
    expect_no_failure(page, server)
