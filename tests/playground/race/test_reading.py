"""The answer as text: rendered Markdown, its differences from AR's answer, and what is copied."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playground.replaying import (
    BROWSER_TEST,
    HOSTILE,
    Browser,
    Page,
    lane,
    launched,
    move_to,
    opened,
    race_of_characters,
    sync_api,
    tokens,
)

expect = sync_api.expect
pytestmark = BROWSER_TEST
COPIES = "navigator.clipboard.writeText = async (text) => { window.copied = text; };"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def race_of(*answers: tuple[str, list[str]]) -> dict[str, Any]:
    """Lanes of AR: (name, texts of its tokens); any lane but "AR" has block diffusion."""
    return {"format": "nbdiff-race", "version": 1, "title": "Read", "verdict": "", "lanes": list(map(made, answers))}


def made(answer: tuple[str, list[str]]) -> dict[str, Any]:
    name, texts = answer
    ids = range(len(texts))
    fixed = [[at, at, 0.9, "ar", []] for at in ids]
    events = [["prefill", 0, 0.01, 2, fixed[:1]]]
    events += [["commit", 0, 0.01 + at / 100, at, at - 1, at, [fixed[at]]] for at in ids[1:]]
    events.append(["finish", 0, 0.01 + len(texts) / 100, "length", [*ids]])
    strategy = "ar" if name == "AR" else "block_diffusion"
    made = lane(name, events, {str(at): text for at, text in enumerate(texts)}, strategy=strategy)
    made["trace"] |= {"version": 2, "answer_pieces": texts}
    return made


def reads(page: Page, name: str, how: str) -> Any:
    region = page.get_by_role("region", name=name, exact=True)
    region.get_by_role("button", name=how, exact=True).click()
    return region.get_by_role("group", name="Text of the answer")


def test_the_text_view_renders_markdown_and_code(browser: Browser, tmp_path: Path) -> None:
    text = (
        "# Title\n\nSome **bold** and *soft* `x < 1`, 2 * 3 * 4.\n\n- one\n  - inner\n- two\n\n1. first\n2. second\n\n"
    )
    text += "```python\ndef f(x):\n    return [x]\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> said\n\nEnd."
    with opened(browser, tmp_path, race_of(("AR", [text]))) as page:
        box = reads(page, "AR", "Text")
        expect(box.locator("h3")).to_have_text("Title")
        expect(box.locator("strong")).to_have_text("bold")
        expect(box.locator("em")).to_have_text("soft")
        assert box.locator("code").all_inner_texts() == ["x < 1", "def f(x):\n    return [x]"]
        assert box.locator("ul > li").count() == 3
        assert box.locator("ul ul > li").all_inner_texts() == ["inner"]
        assert box.locator("ol > li").all_inner_texts() == ["first", "second"]
        assert box.locator("td").all_inner_texts() == ["1", "2"]
        expect(box.locator("blockquote")).to_have_text("said")
        expect(box.locator("p").last).to_have_text("End.")
        assert "2 * 3 * 4." in box.inner_text()


def test_code_without_a_fence_keeps_its_indents(browser: Browser, tmp_path: Path) -> None:
    code = "def find(text):\n    for each in text:\n        yield each * 2 * 3"
    with opened(browser, tmp_path, race_of(("AR", [code + "\n\nIt yields."]))) as page:
        box = reads(page, "AR", "Text")
        expect(box.locator("pre code")).to_have_text(code, use_inner_text=True)
        expect(box.locator("p")).to_have_text("It yields.")


@pytest.mark.parametrize("wrap", ["{}", "`{}`", "**{}**", "```\n{}\n```", "# {}", "- {}", "| {} |\n|---|\n| {} |"])
def test_no_text_of_a_model_becomes_markup(browser: Browser, tmp_path: Path, wrap: str) -> None:
    text = wrap.replace("{}", HOSTILE + '[x](javascript:window.hacked=1) ![y](https://example.org/z.png)"')
    with opened(browser, tmp_path, race_of(("AR", [text]), ("Block diffusion", ["a", text]))) as page:
        expect(reads(page, "AR", "Text")).to_contain_text("onerror")
        expect(reads(page, "Block diffusion", "Changes")).to_contain_text("onerror")
        assert page.locator("img, .answer a, .answer script").count() == 0
        assert page.evaluate("window.hacked") is None


def test_the_text_follows_the_replay(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, race_of(("AR", ["One", " two", " three"]))) as page:
        box = reads(page, "AR", "Text")
        expect(box).to_have_text("One two three")
        page.locator("[data-stage]").focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        expect(box).to_have_text("One")


def test_differences_from_ar_are_marked_and_the_first_is_shown(browser: Browser, tmp_path: Path) -> None:
    words = ["We", " like", " the", " old", " house", "."]
    other = ["We", " like", " a", " new", " house", "!"]
    with opened(browser, tmp_path, race_of(("AR", words), ("Same", words), ("Other", other))) as page:
        same, differs = (page.get_by_role("region", name=name, exact=True) for name in ("Same", "Other"))
        expect(page.locator("[data-differs]:visible")).to_have_count(1)
        texts = [each.split("\n") for each in page.locator("[data-strip] button").all_inner_texts()]
        assert texts == [
            ["AR", "5 forwards"],
            ["Same", "5 forwards", "same text"],
            ["Other", "5 forwards", "text differs"],
        ]
        differs.get_by_role("button", name="AR differs at token 3").click()
        box = differs.get_by_role("group", name="Text of the answer")
        assert box.locator("del").all_inner_texts() == [" the old", "."]
        assert box.locator("ins").all_inner_texts() == [" a new", "!"]
        expect(box).to_be_focused()
        same.get_by_role("button", name="Changes", exact=True).click()
        expect(same.locator(".answer ins, .answer del")).to_have_count(0)


def test_a_long_answer_jumps_to_its_first_difference(browser: Browser, tmp_path: Path) -> None:
    words = [f" word{at}\n" for at in range(200)]
    other = [*words[:150], " other\n", *words[151:]]
    with opened(browser, tmp_path, race_of(("AR", words), ("Other", other))) as page:
        page.get_by_role("button", name="AR differs at token 151").click()
        expect(page.locator("ins")).to_be_in_viewport()


def test_copy_takes_the_answer_without_invisible_characters(browser: Browser, tmp_path: Path) -> None:
    text = ["A\u200bb", "\u00a0c\n", "\ufeff  d", "\u202e👩\u200d🚀", "<eos>"]
    race = race_of(("AR", text))
    race["lanes"][0]["trace"]["answer_pieces"][-1] = ""  # a control token
    with opened(browser, tmp_path, race) as page:
        page.evaluate(COPIES)
        page.evaluate("window.setTimeout = () => 0")  # "Copied" stays
        page.get_by_role("button", name="Copy", exact=True).click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("window.copied") == "Ab c\n  d👩\u200d🚀"


def test_a_selection_of_tokens_is_copied_as_text(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, race_of(("AR", ["One\n", "    two", " three", "four"]))) as page:
        copied = page.evaluate(
            """() => {
              const canvas = document.querySelector("[data-canvas]");
              getSelection().selectAllChildren(canvas);
              const clipboardData = new DataTransfer();
              const event = new ClipboardEvent("copy", { clipboardData, bubbles: true, cancelable: true });
              canvas.querySelector(".token").dispatchEvent(event);
              return event.clipboardData.getData("text/plain");
            }"""
        )
        assert copied == "One\n    two threefour"


def test_parts_of_a_character_are_small_bytes_and_the_last_has_the_character(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, race_of_characters()) as page:
        assert tokens(page).all_inner_texts() == ["E7", "A7", "秘", "E9", "B2", "鲁", "<eos>"]
        sizes = tokens(page).evaluate_all("all => all.map((each) => parseFloat(getComputedStyle(each).fontSize))")
        assert max(sizes[0], sizes[1]) < 0.7 * sizes[2]
        expect(reads(page, "Block diffusion", "Text")).to_have_text("秘鲁")


def test_the_text_is_broken_only_where_the_answer_has_a_line_break(browser: Browser, tmp_path: Path) -> None:
    words = [" word" for _ in range(300)]
    with opened(browser, tmp_path, race_of(("AR", words)), viewport={"width": 1200, "height": 900}) as page:
        assert page.locator(".chunk").count() == 1
        lines = tokens(page, "AR").evaluate_all("all => all.map((each) => each.getBoundingClientRect().top)")
        per_line = {lines.count(top) for top in sorted(set(lines))[:-1]}
        assert len(per_line) == 1  # every line but the last is full
    broken = [" word\n" if at % 10 == 9 else " word" for at in range(300)]
    with opened(browser, tmp_path, race_of(("AR", broken))) as page:
        assert page.locator(".chunk").count() == 3
        starts = page.locator(".chunk").evaluate_all(
            "all => all.map((each) => Number(each.querySelector('.token').dataset.at))"
        )
        assert starts == [0, 100, 200]


def test_characters_of_several_tokens_are_whole(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, race_of_characters()) as page:
        assert tokens(page).all_inner_texts() == ["E7", "A7", "秘", "E9", "B2", "鲁", "<eos>"]
        move_to(page, 0.04)  # the last three bytes
        assert tokens(page).all_inner_texts()[:6] == ["···", "···", "···", "E9", "B2", "鲁"]
        tokens(page).nth(3).focus()
        expect(page.locator("[data-token]")).to_have_text("⟨E9⟩")
        tokens(page).nth(5).focus()
        expect(page.locator("[data-token]")).to_have_text("鲁")
