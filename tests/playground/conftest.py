"""What the tests of the page share: a browser, a server, a tab on it. Others define their own."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.playground import hostile
from tests.playground.serving import PATCHED_APP, Server, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.playground.visiting import CHROMIUM, FLAGS, sync_api

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


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    from tests.playground.visiting import opened

    with opened(browser, server) as page:
        yield page


@pytest.fixture
def slow_page(browser: Any, slow_server: Server) -> Iterator[Any]:
    from tests.playground.visiting import opened

    with opened(browser, slow_server) as page:
        yield page
