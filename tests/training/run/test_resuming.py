"""A run resumed with more steps, or with its batch in other parts; everything else is refused."""

import pytest

from tests.training.runs import losses, small_base, small_data, small_recipe
from training.errors import RunError
from training.recipe.recipe import Recipe
from training.run.launch import make_trainer, start
from training.run.resuming import check_resumable
from training.run.run_folder import RunFolder, read_lines


@pytest.fixture
def sources(tmp_path):
    return small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")


def recipe_of(sources, **steps) -> Recipe:
    return small_recipe(*sources, optimisation=steps)


def contents(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "end.json"}


def test_a_finished_run_goes_on_with_more_steps_at_the_rates_and_sizes_of_the_longer_run(sources, tmp_path, caplog):
    start(recipe_of(sources), tmp_path / "run", resume=False)
    first = losses(tmp_path / "run")
    with caplog.at_level("INFO"):
        start(recipe_of(sources, max_steps=12), tmp_path / "run", resume=True)
    start(recipe_of(sources, max_steps=12), tmp_path / "long", resume=False)
    own, long = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("run", "long"))
    assert losses(tmp_path / "run")[:6] == first
    for key in ("step", "lr", "block_size", "tokens_seen"):
        assert [line[key] for line in own[6:]] == [line[key] for line in long[6:]]
    assert "12 steps instead of 6" in caplog.text
    assert "step 7 has the learning rate 0.01 and blocks of 4, after 0.00417 and blocks of 8." in caplog.text
    assert Recipe.read(str(tmp_path / "run" / "recipe.yaml")).optimisation.max_steps == 12
    assert "| steps | 12 |" in (tmp_path / "run" / "final" / "README.md").read_text()


def test_fewer_steps_are_refused_and_nothing_changes(sources, tmp_path):
    start(recipe_of(sources), tmp_path / "run", resume=False)
    before = contents(tmp_path / "run")
    with pytest.raises(RunError, match=r"has 6 steps, and optimisation.max_steps is 5 now; .* more steps"):
        start(recipe_of(sources, max_steps=5), tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


def stopped_after_two(recipe: Recipe, folder) -> None:
    def stop(done):
        if done.step == 2:
            raise MemoryError

    with pytest.raises(MemoryError):
        start(recipe, folder, resume=False, on_step=stop)


def test_the_same_batch_in_other_parts_reads_the_same_rows(sources, tmp_path, caplog):
    whole = recipe_of(sources, rows=4)
    start(whole, tmp_path / "whole", resume=False)
    stopped_after_two(whole, tmp_path / "run")
    trainer = make_trainer(recipe_of(sources, rows=2, accumulation=2), tmp_path / "run", resume=True)
    trainer.resume()
    with caplog.at_level("INFO"):
        start(recipe_of(sources, rows=2, accumulation=2), tmp_path / "run", resume=True)
    other, own = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "run"))
    assert [line["tokens_seen"] for line in own] == [line["tokens_seen"] for line in other]
    assert [line["loss_ar"] for line in own] == pytest.approx([line["loss_ar"] for line in other], rel=0.05)


def test_a_change_of_processes_is_allowed_if_the_product_stays(sources, tmp_path):
    stopped_after_two(recipe_of(sources, accumulation=2), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert check_resumable(folder, recipe_of(sources, accumulation=2), 1) is None
    assert check_resumable(folder, recipe_of(sources, accumulation=1), 2) is None
    said = check_resumable(folder, recipe_of(sources, rows=4), 1)
    assert said.startswith("a forward reads 4 rows instead of 2: the documents and their order stay")
    with pytest.raises(RunError, match=r"read 4 rows per step, but 2 rows x 2 accumulation x 2 process\(es\) .* 8;"):
        check_resumable(folder, recipe_of(sources, accumulation=2), 2)


def test_a_refused_batch_changes_nothing(sources, tmp_path):
    stopped_after_two(recipe_of(sources), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(RunError, match="so that the product stays"):
        start(recipe_of(sources, accumulation=3), tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before
