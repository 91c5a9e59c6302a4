"""A run's folder: a folder with another run or with other files is refused and not changed."""

import pytest

from tests.training.runs import small_base, small_data, small_recipe
from training.errors import RunError
from training.recipe.recipe import Recipe
from training.run.launch import start


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))


def test_the_folder_of_another_run_is_refused_and_not_changed(recipe, tmp_path):
    start(recipe, tmp_path / "run", resume=False)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="contains another run"):
        start(recipe, tmp_path / "run", resume=False)
    other = recipe.model_copy(update={"seed": 1})
    with pytest.raises(RunError, match=r"started with other settings: seed \(0 then, 1 now\)"):
        start(other, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="no run to resume"):
        start(recipe, tmp_path / "nosuch", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_refused(recipe, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("a cat")
    with pytest.raises(RunError, match="is not an empty folder"):
        start(recipe, tmp_path / "photos", resume=False)
    assert [each.name for each in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
