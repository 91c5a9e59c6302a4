"""A tracker that is unknown or not installed is refused at the start."""

import pytest
from accelerate.utils import LoggerType

from tests.training.runs import small_base, small_data, small_recipe
from training.errors import RecipeError
from training.run import trackers
from training.run.launch import start
from training.run.trackers import check_trackers


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("comet_ml", "comet-ml"), ("trackio", "trackio")])
def test_a_tracker_that_is_not_installed_is_refused_with_the_pip_line(name, package, monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    recipe = small_recipe(
        small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"), saving={"trackers": ["tensorboard", name]}
    )
    with pytest.raises(RecipeError, match=f"names {name}, which is not installed; run pip install {package},"):
        start(recipe, tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_with_the_choices():
    with pytest.raises(RecipeError, match=r"names 'paper'; choose from .*tensorboard, wandb, trackio"):
        check_trackers(["paper"])


def test_an_installed_tracker_is_accepted(monkeypatch):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    check_trackers(["tensorboard"])
