"""The picture of a preview shows what its text shows."""

import re

import pytest

from tests.training.bases import write_base
from training.planning.preview import preview
from training.planning.preview_picture import PicturedAnswer, picture
from training.recipe.recipe import Recipe


@pytest.fixture
def recipe(tmp_path):
    optimisation = ["optimisation.rows=4", "optimisation.packed_length=256", "optimisation.max_steps=1000"]
    base = write_base(tmp_path / "base")
    return Recipe.read("smoke", [*optimisation, "blocks={b_max: 8, interval: 0.06}"], base=str(base))


def test_the_blocks_of_the_picture_are_those_of_the_text(recipe):
    text = preview(recipe, 2)
    shown = picture(recipe, 2)
    masked = list(map(int, re.findall(r"L_MDM (\d+) masked", text)))
    filled = list(map(int, re.findall(r"\((\d+) fill tokens", text)))
    assert len(shown.documents) == len(masked) == 2
    for document, hidden, fill in zip(shown.documents, masked, filled, strict=True):
        (answer,) = [part for part in document.parts if isinstance(part, PicturedAnswer)]
        tokens = [token for block in answer.blocks for token in block]
        assert all(len(block) == 8 for block in answer.blocks)
        assert sum(token.masked for token in tokens) == hidden
        assert sum(token.fill for token in tokens) <= fill  # a masked fill token is shown as masked
        assert not any(block[0].masked for block in answer.blocks)
        assert isinstance(document.parts[0], str)


def test_the_drawn_mask_is_that_of_the_text(recipe):
    shown = picture(recipe)
    lines = [line for line in preview(recipe).splitlines() if re.match(r"  x(_t)? +\d+ ", line)]
    assert len(lines) == len(shown.mask)
    for line, row in zip(lines, shown.mask, strict=True):
        assert "".join("#" if sees else "." for sees in row.sees) in line
    assert shown.mask_block == 4


def test_a_draft_adapter_is_described_as_text(tmp_path):
    base = write_base(tmp_path / "base")
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "what is it?", "completion": "it is a word and another word."}\n' * 20)
    drafts = ["lora={mode: draft_only, rank: 4}", "optimisation.packed_length=64", "saving={}", "data.raw=true"]
    sizes = ["blocks={kind: fixed, b_max: 4}", "objective={}", "draft={groups: 1}"]
    recipe = Recipe.read("smoke", [*drafts, *sizes], base=str(base), data__source=str(data))
    assert "draft adapter for" in picture(recipe).text
