"""The server for programs and for links: described endpoints, a footer, a card, and a run as code."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.playground.serving import ROOT, Server
from tests.playground.visiting import BROWSER_TEST, Browser, Page, expect, limit

pytestmark = BROWSER_TEST


def test_every_parameter_of_an_endpoint_is_described(server: Server) -> None:
    info = json.loads(server.get("/gradio_api/info"))["named_endpoints"]
    assert set(info) == {"/generate", "/models", "/sweep"}
    for name, endpoint in info.items():
        assert endpoint["description"], name
        for parameter in endpoint["parameters"]:
            assert len(parameter["python_type"]["description"]) > 10, (name, parameter["parameter_name"])


def test_a_shared_link_has_our_card(server: Server) -> None:
    page = server.get().decode()
    tags = dict(re.findall(r'<meta (?:property|name)="((?:og|twitter):[^"]+)" content="([^"]*)"', page))
    assert tags["og:title"] == "NBDiff playground"
    assert tags["og:image"] == f"{server.url}/share.png"
    assert server.get("/share.png").startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_footer_leads_to_the_api(browser: Browser, server: Server) -> None:
    page = browser.new_page()  # not `opened`: the API page is Gradio's own, with console messages of its own
    page.goto(server.url)
    page.locator("footer").get_by_role("button", name=re.compile("API")).click()
    expect(page.get_by_text("/generate").first).to_be_visible()
    expect(page.get_by_text("the most tokens of the answer").first).to_be_visible()
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Python", "curl"])
def test_the_run_of_the_form_is_copied_as_code_that_works(page: Page, tmp_path: Path, kind: str) -> None:
    page.get_by_role("textbox", name="Prompt", exact=True).fill("What's the capital of Peru?")
    limit(page).fill("16")
    page.get_by_role("button", name=f"Copy as {kind}").click()
    code = page.locator("#code textarea")
    expect(code).to_have_value(re.compile("nbdiff_engine" if kind == "Python" else "http://127"))
    done: Any = None
    if kind == "Python":
        done = subprocess.run([sys.executable, "-c", code.input_value()], capture_output=True, text=True, cwd=ROOT)
    elif pytest.importorskip("shutil").which("curl"):
        done = subprocess.run(["sh", "-c", code.input_value()], capture_output=True, text=True, env={"no_proxy": "*"})
    if done is not None:
        assert done.stdout.count("Lima") >= 3, done
