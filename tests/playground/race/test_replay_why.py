"""The inspector of a token: each reason as a sentence with its numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playground.replaying import BROWSER_TEST, Browser, lane, launched, opened, small_race, sync_api, tokens

expect = sync_api.expect
pytestmark = BROWSER_TEST


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def test_the_inspector_shows_the_reason_and_the_alternatives(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, small_race()) as page:
        tokens(page).nth(1).hover()
        panel = page.locator("[data-inspector]")
        expect(panel).to_contain_text("0.97 is above the threshold 0.9.")
        expect(panel).to_contain_text("position 1 · block 1 · fixed in step 1 of block 1 · after 20.0 ms")
        expect(panel.locator("[data-bars] li")).to_have_count(2)
        tokens(page).nth(2).click()
        tokens(page).nth(0).hover()
        expect(panel.locator("[data-token]")).to_have_text("␣three")
        expect(panel.get_by_role("img")).to_have_attribute("aria-label", "Confidence: 40.0 %, 65.0 %, 95.0 %")
        page.keyboard.press("Escape")
        expect(panel).to_be_hidden()
        expect(page.locator("[data-fork], [data-continue], [data-replace]")).to_have_count(0)  # not in an exported file


REASONS = [  # reason, confidence, alternatives, settings, sentence
    ("ar", 0.8, [], {}, "The most likely next token of AR, with probability 0.80."),
    ("ar", 0.8, [], {"temperature": 0.7}, "The next token of AR, sampled at temperature 0.7; its probability is 0.80."),
    ("over_threshold", 0.97, [], {}, "0.97 is above the threshold 0.9."),
    (
        "most_confident",
        0.7,
        [],
        {},
        "0.70 is not above the threshold 0.9, but the highest of its pass, and every pass fixes at least one token.",
    ),
    (
        "most_confident",
        0.7,
        [[2, 0.25]],
        {"unmasking": "margin", "margin": 0.5},
        "Its margin over the second-best token, 0.45, is not above the margin 0.5, but the largest of its pass, "
        "and every pass",
    ),
    (
        "most_confident",
        0.4,
        [],
        {"unmasking": "factor", "factor": 1.0},
        "0.40 is too low for the factor rule (factor 1), but the highest of its pass",
    ),
    (
        "over_factor",
        0.75,
        [],
        {"unmasking": "factor", "factor": 1.0},
        "0.75 is the highest of its pass: 2 × (1 − 0.75) = 0.50 is below the factor 1.",
    ),
    (
        "over_margin",
        0.9,
        [[2, 0.05]],
        {"unmasking": "margin", "margin": 0.8},
        "Its margin over the second-best token, 0.85, is above the margin 0.8.",
    ),
    ("top_k", 0.6, [], {"tokens_per_step": 1}, "0.60 is the highest of its pass, and a pass fixes one token."),
    ("top_k", 0.6, [], {"tokens_per_step": 3}, "0.60 is among the 3 highest of its pass."),
    ("lowest_entropy", 0.6, [], {"tokens_per_step": 2}, "Among the 2 positions of its pass with the lowest entropy."),
    (
        "within_entropy_bound",
        0.6,
        [],
        {"entropy_bound": 0.1},
        "Among the positions with the lowest entropy of its pass, as many as the bound of 0.1 nats allows; "
        "at least one.",
    ),
    (
        "scheduled",
        0.6,
        [],
        {"steps_per_block": 8},
        "A block has 8 steps; 0.60 is among the highest of this step.",
    ),
    ("draft", 0.6, [], {}, "A draft token with confidence 0.60; the next AR pass verifies it."),
    ("accepted_draft", 0.6, [], {}, "The AR pass accepted this draft token; its AR probability is 0.60."),
    ("correction", 0.6, [], {}, "The token of AR, with probability 0.60; it replaces a rejected draft token."),
    ("an unknown rule", 0.6, [], {}, "Part of the finished answer."),
]


def test_every_reason_has_a_sentence_with_its_setting(browser: Browser, tmp_path: Path) -> None:
    def lane_with(number: int, reason: str, p: float, others: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
        fixed = [[0, 1, p, reason, others]]
        events = [["denoise", 0, 0.02, 0, 0, 0, 1, fixed, []], ["finish", 0, 0.02, "length", [1]]]
        return lane(f"Lane {number}", events, {"1": " two", "2": " three"}, **settings)

    lanes = [lane_with(number, *each[:4]) for number, each in enumerate(REASONS)]
    with opened(browser, tmp_path, {**small_race(), "lanes": lanes}) as page:
        for number, (*_, sentence) in enumerate(REASONS):
            tokens(page, f"Lane {number}").click()
            expect(page.locator("[data-why]")).to_contain_text(sentence)


def test_the_factor_rule_states_the_number_of_tokens_fixed_together(browser: Browser, tmp_path: Path) -> None:
    fixed = [[at, at, p, "over_factor", []] for at, p in enumerate([0.99, 0.95, 0.9])]
    events = [["denoise", 0, 0.02, 0, 0, 0, 3, fixed, []], ["finish", 0, 0.02, "length", [0, 1, 2]]]
    factor = lane("Factor", events, {str(token): f" {token}" for token in range(3)}, unmasking="factor", factor=1.0)
    with opened(browser, tmp_path, {**small_race(), "lanes": [factor]}) as page:
        tokens(page, "Factor").nth(1).hover()
        expect(page.locator("[data-why]")).to_have_text(
            "0.95 is among the 3 highest of its pass, the lowest of them 0.9000: "
            "4 × (1 − 0.9000) = 0.40 is below the factor 1."
        )
