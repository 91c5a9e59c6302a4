"""Fixtures of the page's tests: a browser, a server, a page. Some modules define their own."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.playground import hostile
from tests.playground.serving import PATCHED_APP, Gate, Server, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.playground.visiting import CHROMIUM, FLAGS, sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The playground as `python app.py` starts it, with longer leases."""
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def held_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model decodes a script tag. The fixture `gate` controls its forwards. Leases are long, so that a
    run stops only when the closed tab has sent its beacon."""
    folder = tmp_path_factory.mktemp("held")
    model = hostile.write(folder / "model")
    limits = ("--lease-seconds", "600", "--wall-seconds", "600")
    with serving(
        folder, "--model", str(model), *limits, app=PATCHED_APP, NBDIFF_TEST_GATE=str(folder / "gate")
    ) as server:
        yield server


@pytest.fixture(scope="module")
def used_page(browser: Any, server: Server) -> Iterator[Any]:
    """One tab for all tests of a module: to open the page costs eight CPU-seconds. For tests that do not depend on what
    earlier tests did in it."""
    from tests.playground.visiting import opened

    with opened(browser, server) as page:
        yield page


@pytest.fixture
def page(used_page: Any) -> Any:
    """The tab of the module with the form that a new tab has."""
    from tests.playground.visiting import reset

    reset(used_page)
    return used_page


@pytest.fixture(scope="module")
def used_held_page(browser: Any, held_server: Server) -> Iterator[Any]:
    from tests.playground.visiting import opened

    with opened(browser, held_server) as page:
        yield page


@pytest.fixture
def held_page(used_held_page: Any) -> Any:
    """The module's tab on the held server, with the form that a new tab has."""
    from tests.playground.visiting import reset

    reset(used_held_page)
    return used_held_page


@pytest.fixture
def gate(held_server: Server) -> Iterator[Gate]:
    """A gate that holds each forward until the test permits it. Request it after `held_page`, so that it opens before
    the tab closes."""
    client = pytest.importorskip("gradio_client").Client(held_server.url, verbose=False)
    client.predict("Hello", "", "ar", 1, api_name="/generate")  # waits until the runs of earlier tests have ended
    gate = Gate(held_server.output.with_name("gate"))
    gate.shut()
    yield gate
    gate.open()
