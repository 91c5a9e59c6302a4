"""Signals: the step is finished and saved, and the losses of the run stay what they are."""

import os
import signal

import pytest

from tests.training.runs import losses, small_base, small_data, small_recipe
from training.recipe.recipe import Recipe
from training.run.checkpointing import CheckpointStore
from training.run.interruption import Interrupted
from training.run.launch import start
from training.run.log_lines import StepFigures


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))


@pytest.fixture
def unbroken(recipe, tmp_path) -> list[tuple]:
    start(recipe, tmp_path / "unbroken", resume=False)
    return losses(tmp_path / "unbroken")


def test_a_signal_saves_and_ends(recipe, unbroken, tmp_path):
    def signal_it(done: StepFigures) -> None:
        if done.step == 2:  # what comes next is step 3
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 3, which is saved") as stopped:
        start(recipe, tmp_path / "run", resume=False, on_step=signal_it)
    assert stopped.value.exit_code == 143
    start(recipe, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == unbroken


def test_a_run_that_is_told_to_save_does_and_goes_on(recipe, unbroken, tmp_path):
    recipe = recipe.model_copy(update={"saving": recipe.saving.model_copy(update={"save_every": 1000})})
    checkpoints = CheckpointStore(tmp_path / "run" / "checkpoints", keep=9)
    seen = {0: [each.step for each in checkpoints.all()]}

    def signal_it(done: StepFigures) -> None:
        seen[done.step] = [each.step for each in checkpoints.all()]
        if done.step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    start(recipe, tmp_path / "run", resume=False, on_step=signal_it)
    assert seen == {0: [], 1: [], 2: [], 3: [3], 4: [3], 5: [3], 6: [3, 6]}
    assert losses(tmp_path / "run") == unbroken
    assert signal.getsignal(signal.SIGUSR1) == before
