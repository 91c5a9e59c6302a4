"""The fields of a recipe before they are checked: safe YAML, other data, and a length that is given in another way."""

import pytest

from training.data.data_settings import DataSettings
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes, change, plain_yaml

NAMES = list(bundled_recipes())
OF_SOURCE = ("self_data", "weights", "format", "columns", "subset", "split", "limit")


@pytest.mark.parametrize("name", [name for name in NAMES if Recipe.read(name).kind == "adapt"])
def test_any_recipe_takes_other_data_without_the_settings_of_its_own(name, caplog):
    caplog.set_level("INFO")
    own, plain = Recipe.read(name).data, DataSettings(source="mine.csv")
    changed = [key for key in OF_SOURCE if getattr(own, key) != getattr(plain, key)]
    recipes = [
        Recipe.read(name, data__source="mine.csv"),
        Recipe.read(name, ["data.source=mine.csv"]),
        Recipe.parse(name, {}, data__source="mine.csv"),
    ]
    for recipe in recipes:
        assert recipe.data == plain.model_copy(update={"held_out": own.held_out, "seed": own.seed})
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (3 if changed else 0)
    for line in lines:
        assert line == f"the data is 'mine.csv', so these settings of {name} for its own data are left out: " + (
            ", ".join(f"data.{key}" for key in changed)
        )


def test_settings_that_are_given_with_the_data_are_kept(tmp_path):
    data = Recipe.read("qwen3-0.6b-lora", ["data.columns={prompt: ask}", "data.limit=5"], data__source="x.csv").data
    assert (data.columns, data.limit) == ({"prompt": "ask"}, 5)
    same = Recipe.read("qwen3-0.6b-lora", data__source="self").data
    assert same == Recipe.read("qwen3-0.6b-lora").data
    asked = Recipe.read("lora", ["data.self_data.documents=9"], data__source="self").data
    assert asked.self_data.documents == 9
    stored = tmp_path / "recipe.yaml"
    stored.write_text(Recipe.read("nano", base="nano-ar").to_yaml(), encoding="utf-8")
    assert Recipe.read(str(stored), data__source="x.csv").data.weights == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x 1\nb: *x", "it uses an alias"),
        ("[" * 50 + "]" * 50, "it is nested more than 40 levels deep"),
        ("a: [1", "while parsing a flow sequence"),
    ],
)
def test_yaml_of_others_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        plain_yaml(text)


def test_a_length_that_is_given_in_another_way_replaces_that_of_the_recipe():
    fields = {"optimisation": {"max_steps": 10, "rows": 2}}
    change(fields, "mine", [("optimisation.epochs", 3)])
    assert fields == {"optimisation": {"rows": 2, "epochs": 3}}
