"""The training curve: every checkpoint is measured once for given settings."""

import dataclasses

import pytest

from benchmarks import training_curve
from benchmarks.training_curve import KEPT, CurveSettings, Point, curve_table, points_of_run, train
from nbdiff_engine.errors import NBDiffError
from nbdiff_engine.tasks import held_out
from tests.tiny import tiny_model
from training.errors import RunError
from training.recipe.recipe import Recipe
from training.run.interruption import Interrupted

SETTINGS = CurveSettings(problems=1, block_size=8, threshold=0.9, max_new_tokens=8, dtype="float32", run_code=False)


def point(step: int) -> Point:
    return Point(f"step-{step}", step, 1.0, 0.5, 3.25, None, 2.0)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A run with three checkpoints. Returns the list of the steps that were decoded."""
    for step in (20, 5, 10):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    steps = []

    def decode(run_path, checkpoint, problems, settings):
        steps.append(checkpoint.step)
        return point(checkpoint.step)

    monkeypatch.setattr(training_curve, "_measured", decode)
    return steps


def test_every_checkpoint_is_decoded_once_oldest_first(measured, tmp_path):
    first = list(points_of_run(tmp_path, [], SETTINGS))
    assert [each.step for each in first] == measured == [5, 10, 20]
    assert list(points_of_run(tmp_path, [], SETTINGS)) == first
    assert measured == [5, 10, 20]


def test_a_stopped_curve_resumes(measured, tmp_path):
    points = points_of_run(tmp_path, [], SETTINGS)
    next(points)
    points.close()
    assert [each.step for each in points_of_run(tmp_path, [], SETTINGS)] == [5, 10, 20]
    assert measured == [5, 10, 20]


def test_a_checkpoint_with_an_incomplete_line_is_measured_again(measured, tmp_path):
    list(points_of_run(tmp_path, [], SETTINGS))
    text = (tmp_path / KEPT).read_text()
    (tmp_path / KEPT).write_text(text[:-20])
    list(points_of_run(tmp_path, [], SETTINGS))
    assert measured == [5, 10, 20, 20]


def test_other_settings_are_measured_again(measured, tmp_path):
    list(points_of_run(tmp_path, [], SETTINGS))
    list(points_of_run(tmp_path, [], dataclasses.replace(SETTINGS, threshold=0.5)))
    assert measured == [5, 10, 20] * 2


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(NBDiffError, match="no checkpoints of a run"):
        list(points_of_run(tmp_path, [], SETTINGS))


def test_a_model_without_blocks_is_refused():
    model = tiny_model("llama")
    model.spec = None
    with pytest.raises(NBDiffError, match="a curve of block diffusion needs"):
        training_curve.point_of(model, held_out(limit=1), SETTINGS, None, "tiny")


def test_the_small_run_is_trained_once_and_never_overwrites_another(monkeypatch, tmp_path):
    resumed = []

    def start(recipe: Recipe, output, resume):
        resumed.append(resume)
        output.mkdir(exist_ok=True)
        (output / "recipe.yaml").write_text(recipe.to_yaml())
        if resume:
            (output / "final").mkdir()
            (output / "final" / "config.json").write_text("{}")

    monkeypatch.setattr(training_curve, "start", start)
    output = tmp_path / "run"
    for _ in range(3):  # started and stopped, resumed, finished
        train(output, 8, 4)
    assert resumed == [False, True]
    with pytest.raises(RunError, match="with more steps, not with fewer"):
        train(output, 7, 4)


def test_the_error_of_an_interrupted_small_run_explains_how_to_resume(monkeypatch, tmp_path):
    def start(recipe: Recipe, output, resume):
        raise Interrupted("stopped after step 5, which is saved; --resume continues from there", 130)

    monkeypatch.setattr(training_curve, "start", start)
    with pytest.raises(RunError, match="The same command resumes"):
        train(tmp_path / "run", 8, 4)


def test_the_small_run_keeps_all_its_checkpoints(monkeypatch, tmp_path):
    recipes = []
    monkeypatch.setattr(training_curve, "start", lambda recipe, output, resume: recipes.append(recipe))
    train(tmp_path / "run", 160, 20)
    assert recipes[0].saving.keep >= 160 // 20
    assert recipes[0].optimisation.max_steps == 160


def test_an_accuracy_without_judged_answers_is_an_empty_cell():
    last = curve_table([point(5)]).splitlines()[-1].split()
    assert last == ["step-5", "5", "100%", "50%", "3.25", "2.00"]
