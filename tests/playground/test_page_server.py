"""The page over a running `nbdiff serve`, in a browser: the same race, and a sentence where weights would be needed."""

from pathlib import Path

import pytest

import nbdiff_engine as nb
from tests import forked
from tests.engine.serving.servers import nano_app, served
from tests.free_ports import free_port
from tests.playground.serving import serving
from tests.playground.visiting import BROWSER_TEST, STORY, Browser, expect, lanes, opened, run

pytestmark = [*BROWSER_TEST, pytest.mark.slow]  # it starts a page of its own, twice


def test_a_race_at_a_server_shows_the_tokens_of_the_model_here(browser: Browser, tmp_path: Path) -> None:
    model = nb.load("nano", dtype="float32")
    settings = ({"strategy": "ar"}, {"block_size": 16, "skip_after_eos": True}, {"strategy": "self_speculative"})
    expected = [nb.generate(model, STORY, max_new_tokens=24, **each) for each in settings]
    with (
        served(nano_app(model, api_key="secret")) as address,
        serving(tmp_path, "--server", address, NBDIFF_API_KEY="secret") as server,
        opened(browser, server) as page,
    ):
        run(page, STORY, max_new_tokens="24")
        for lane, output in zip(lanes(page), expected, strict=True):
            expect(lane.locator(".token:visible")).to_have_count(len(output.token_ids))
            shown = lane.locator("[data-canvas]").inner_text().replace("\u200b", "")  # where a line may break
            assert shown.split() == output.text.split()
        expect(page.locator("[data-fork]")).to_have_count(0)
        expect(page.locator("#stage")).to_contain_text("A fork needs the model on this machine, and this one is at")
        for tab, sentence in (
            ("Block sizes", "decodes many problems in batches with a model on this machine"),
            ("Models", f"The models are those of {address}: nano."),
            ("Training", "Training starts from a model on this machine; start the page without --server"),
        ):
            page.get_by_role("tab", name=tab).click()
            expect(page.get_by_text(sentence)).to_be_visible()
    refused = forked.run_module("app", "--server", address, "--port", str(free_port()))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: The server at {address} does not answer; start it with")
    assert refused.stderr.count("\n") == 1
