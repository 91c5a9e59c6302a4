"""A run whose length is given in epochs."""

import pytest

from tests.training.runs import losses, small_base, small_data, small_recipe
from training.errors import RecipeError
from training.recipe.recipe import Recipe
from training.run.launch import start
from training.run.run_folder import RunFolder, read_lines


@pytest.fixture
def epochs(tmp_path) -> Recipe:
    recipe = small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl", rows=30))
    fields = recipe.model_dump(mode="json")
    del fields["optimisation"]["max_steps"]
    fields["optimisation"]["epochs"] = 2
    return Recipe.model_validate(fields)


def test_the_steps_are_counted_from_the_documents_logged_and_stored(epochs, tmp_path, caplog):
    with caplog.at_level("INFO"):
        start(epochs, tmp_path / "run", resume=False)
    stored = Recipe.read(str(tmp_path / "run" / "recipe.yaml")).optimisation
    assert stored.epochs is None
    assert f"2 epochs of 27 documents are {stored.max_steps} steps of 2 rows" in caplog.text
    assert len(losses(tmp_path / "run")) == stored.max_steps
    card = (RunFolder(tmp_path / "run").final / "README.md").read_text()
    read = float(next(line for line in card.splitlines() if line.startswith("| epochs")).split("|")[2])
    assert read == pytest.approx(2, abs=0.15)
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["block_size"] == 8  # phases scale with the length


def test_a_run_in_epochs_resumes_with_its_own_recipe_and_with_more_epochs(epochs, tmp_path):
    start(epochs, tmp_path / "run", resume=False)
    before = losses(tmp_path / "run")
    start(epochs, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == before
    more = Recipe.read(str(tmp_path / "run" / "recipe.yaml"), ["optimisation.epochs=3"])
    start(more, tmp_path / "run", resume=True)
    assert len(losses(tmp_path / "run")) > len(before)


def test_epochs_of_data_without_an_end_are_refused(epochs, tmp_path):
    recipe = Recipe.read("smoke", ["optimisation.epochs=2"], base=epochs.base)
    with pytest.raises(RecipeError, match=r"optimisation.epochs is 2, but corpus is generated without an end"):
        start(recipe, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_epochs_and_steps_exclude_each_other_and_an_override_replaces_the_other():
    with pytest.raises(RecipeError, match=r"max_steps is 9 and optimisation.epochs is 2; give one of them"):
        Recipe.read("smoke", ["optimisation.epochs=2", "optimisation.max_steps=9"])
    with pytest.raises(RecipeError, match="give one of them"):
        Recipe.parse("smoke", {"optimisation.epochs": 2}, optimisation__max_steps=9)
    recipe = Recipe.read("smoke", ["optimisation.epochs=2"])  # smoke gives its steps
    assert recipe.optimisation.epochs == 2
    assert Recipe.parse(recipe.to_yaml()).optimisation == recipe.optimisation
    assert Recipe.parse(recipe.to_yaml(), {"optimisation.max_steps": 9}).optimisation.epochs is None
