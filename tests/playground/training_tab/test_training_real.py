"""The training tab with the real trainer: from Start to a lane with the adapted model, with a kill of the server."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.playground import visiting
from tests.playground.serving import serving
from training.jobs import Jobs
from training.jobs.states import ENDED

sync_api = visiting.sync_api
Browser, expect = sync_api.Browser, sync_api.expect
pytestmark = [*visiting.BROWSER_TEST, pytest.mark.slow]

MINUTES = 4 * 60_000  # ms; on two idle cores the recipe takes less than one


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "home"
    yield folder
    jobs = Jobs(folder)
    for job in jobs.list():
        if job.state not in ENDED:
            jobs.stop(job.id)


def test_a_job_continues_when_its_server_is_killed_and_its_model_decodes_in_a_lane(
    browser: Browser, tmp_path: Path, home: Path
) -> None:
    with serving(tmp_path, NBDIFF_HOME=str(home)) as server:
        page = browser.new_page()
        page.set_default_timeout(MINUTES)
        page.goto(server.url)
        page.get_by_role("tab", name="Training").click()
        # Few steps: a CPU without bfloat16 instructions takes half a minute for each.
        page.locator("#job-steps input").fill("4")
        expect(page.locator("#job-command")).to_contain_text("--max-steps 4")
        page.locator("#job-start").click()
        # On a fast machine the run can finish before the page shows "running".
        expect(page.locator("#job .badge")).to_have_text(re.compile("^(running|finished)$"), timeout=MINUTES)
        server.process.kill()
        server.process.wait()
        page.close()
    (job,) = Jobs(home).list()
    assert job.state in ("running", "finished")
    with serving(tmp_path, NBDIFF_HOME=str(home)) as server:
        page = browser.new_page()
        page.set_default_timeout(MINUTES)
        page.goto(server.url)
        page.get_by_role("tab", name="Training").click()
        page.get_by_role("tab", name="Jobs").click()
        expect(page.locator("#job .badge")).to_have_text("finished", timeout=MINUTES)
        page.locator("#job-open").click()
        expect(page.locator("#lanes fieldset")).to_have_count(2, timeout=MINUTES)
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator("[data-status]")).to_have_text("Finished.", timeout=MINUTES)
        expect(page.locator("[data-replaying]")).not_to_contain_text("Recorded")
        expect(page.locator("[data-lanes]")).to_contain_text("smoke, blocks of 16")
        page.close()
