"""The page as a user with the package of smollm2 sees it: it opens on SmolLM2, which is loaded meanwhile."""

from pathlib import Path

import pytest

from playground.server.coming_model import can_be_loaded
from tests.playground.serving import serving
from tests.playground.visiting import BROWSER_TEST, PATIENCE, Browser, ask, expect, opened, run

pytestmark = [
    *BROWSER_TEST,
    pytest.mark.slow,
    pytest.mark.skipif(not can_be_loaded(), reason="smollm2 or its draft adapter is not here"),
]


def test_smollm2_is_on_stage_before_it_is_loaded_and_then_runs(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, as_users=True) as server, opened(browser, server) as page:
        ar, drafted = (page.get_by_role("region", name=name, exact=True) for name in ("AR", "Self-speculation"))
        expect(page.locator("[data-replaying]")).to_contain_text("Recorded")
        expect(page.locator("#about-model")).to_contain_text("For block diffusion, choose nano")
        expect(page.locator("[data-strip]")).to_contain_text("same text")
        ask(page, max_new_tokens="24")
        expect(page.locator("[data-status]")).to_have_text(
            "Finished.", timeout=4 * PATIENCE
        )  # the model is loaded first
        page.locator("[data-range]").press("End")
        expect(drafted.locator(".token.committed").nth(20)).to_be_visible()
        assert ar.locator("[data-canvas]").inner_text() == drafted.locator("[data-canvas]").inner_text()
        expect(page.locator("[data-note]")).to_be_hidden()
        page.get_by_label("nano: block diffusion").check()
        expect(page.get_by_role("region", name="Block diffusion", exact=True)).to_be_visible()
        expect(page.locator("[data-replaying]")).to_contain_text("Recorded")
        run(page)
