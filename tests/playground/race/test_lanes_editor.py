"""The lane form: Python sends the settings, and the form creates a control for each."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nbdiff_engine.decoding.settings import STRATEGIES
from playground.server import web_files
from playground.server.tables import LANE_SETTINGS, form_tables
from tests.playground.replaying import BROWSER_TEST, Browser, Page, launched, page_of

pytestmark = BROWSER_TEST

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Lanes</title></head><body><main id="lanes">@html@</main>
<script>
const props = { value: @value@ };
const triggered = [];
(function (element, props, watch, trigger) {
@js@
})(document.getElementById("lanes"), props, () => {}, (name) => triggered.push(name));
</script></body></html>
"""
LANE = {"model": "nano", "strategy": "block_diffusion", "block_size": 16}
NEW = {"group": "New", "strategies": None, "step": None, "must_be": None, "choices": [], "optional": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@contextmanager
def edited(browser: Browser, folder: Path, lane: dict[str, Any], *more: dict[str, Any]) -> Iterator[Page]:
    """The form with one lane. more: settings in addition to those of the engine."""
    tables = form_tables()
    value = {
        "lanes": [lane],
        "models": [{"name": "nano", "strategies": list(STRATEGIES), "defaults": {"threshold": 0.85}}],
        "most": 6,
        "serial": "a",
        "tables": {**tables, "settings": [*tables["settings"], *more]},
    }
    html = PAGE.replace("@html@", web_files.read("lanes_editor.html")).replace("@value@", json.dumps(value))
    with page_of(browser, folder, html.replace("@js@", web_files.read("lanes_editor.js"))) as page:
        page.locator("details").evaluate("node => { node.open = true; }")
        yield page


def lanes_of(page: Page) -> list[dict[str, Any]]:
    return page.evaluate("props.value.lanes")


@pytest.mark.parametrize("strategy", ["ar", "block_diffusion", "self_speculative"])
def test_a_lane_shows_the_settings_that_its_strategy_reads(browser: Browser, tmp_path: Path, strategy: str) -> None:
    of_policies = {each["setting"] for each in form_tables()["policies"]}
    wanted = [
        name
        for name, setting in LANE_SETTINGS.items()
        if name not in of_policies and strategy in (setting.form.strategies or [strategy])
    ]
    with edited(browser, tmp_path, {"model": "nano", "strategy": strategy}) as page:
        fields = page.locator("[data-field]").evaluate_all("all => all.map((each) => each.dataset.field)")
        assert [name for name in fields if name not in ("on", "model", "parameter")] == wanted
        labels = page.locator("fieldset label").evaluate_all("all => all.map((each) => each.firstChild.data?.trim())")
        assert [label for label in labels if label][1:] == [LANE_SETTINGS[name].form.label for name in wanted]
        assert page.locator("[data-field=parameter]").count() == (strategy != "ar")


def test_a_new_setting_of_any_kind_gets_a_control_and_is_sent(browser: Browser, tmp_path: Path) -> None:
    def new(name: str, kind: str, **changed: Any) -> dict[str, Any]:
        return {**NEW, "name": name, "label": name, "kind": kind, "description": "New.", "default": None, **changed}

    settings = [
        new("penalty", "number", least=0.5, most=2, step=0.1),
        new("fast", "flag", default=False),
        new("order", "choice", choices=["left", "right"]),
        new("words", "texts"),
        new("table", "pairs"),
    ]
    with edited(browser, tmp_path, LANE, *settings) as page:
        empty = {"Threshold": "default: 0.85", "Temperature": "default: 0", "Top-k": "off", "penalty": "default"}
        for name, placeholder in empty.items():
            assert page.get_by_role("spinbutton", name=name, exact=True).get_attribute("placeholder") == placeholder
        penalty = page.get_by_label("penalty", exact=True)
        assert [penalty.get_attribute(name) for name in ("min", "max", "step")] == ["0.5", "2", "0.1"]
        penalty.fill("1.5")
        penalty.press("Tab")
        page.get_by_label("fast").check()
        page.get_by_label("order").select_option("right")
        page.get_by_label("words").fill("a\nb")
        page.get_by_label("words").press("Tab")
        page.get_by_label("table").fill("13=-5\n7=2")
        page.get_by_label("table").press("Tab")
        sent = {"penalty": 1.5, "fast": True, "order": "right", "words": ["a", "b"], "table": ["13=-5", "7=2"]}
        assert lanes_of(page) == [{**LANE, **sent}]
        assert page.evaluate("triggered") == ["edited"] * len(sent)  # the list of presets follows


def test_a_setting_is_removed_when_the_policy_or_strategy_does_not_use_it(browser: Browser, tmp_path: Path) -> None:
    lane = {**LANE, "unmasking": "margin", "margin": 0.5, "sub_block_size": 4, "seed": 3}
    with edited(browser, tmp_path, lane) as page:
        assert page.locator("[data-field=parameter]").input_value() == "0.5"
        page.get_by_label("Unmasking policy").select_option("fixed_steps")
        assert page.locator("[data-parameter-label]").inner_text() == "Steps per block"
        page.locator("[data-field=parameter]").fill("4")
        page.locator("[data-field=parameter]").press("Tab")
        kept = {**LANE, "seed": 3}
        assert lanes_of(page) == [{**kept, "sub_block_size": 4, "unmasking": "fixed_steps", "steps_per_block": 4}]
        page.get_by_label("Strategy").select_option("ar")
        assert lanes_of(page) == [{"model": "nano", "strategy": "ar", "seed": 3}]
