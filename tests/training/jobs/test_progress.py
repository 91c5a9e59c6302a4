"""What a job has written so far."""

from training.jobs.progress import steps_of
from training.recipe.recipe import Recipe


def test_the_steps_of_epochs_are_those_that_the_run_has_stored(tmp_path):
    assert steps_of(tmp_path) is None
    (tmp_path / "recipe.yaml").write_text("optimisation: [")
    assert steps_of(tmp_path) is None
    (tmp_path / "recipe.yaml").write_text(Recipe.read("smoke", optimisation__max_steps=7).to_yaml())
    assert steps_of(tmp_path) == 7
