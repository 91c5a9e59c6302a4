"""Signals: the run finishes its step and saves; its losses do not change."""

import os
import signal

import pytest

from tests.training.runs import losses, small_base, small_data, small_recipe
from training.recipe.recipe import Recipe
from training.run import evaluating
from training.run.checkpointing import CheckpointStore
from training.run.end_file import Ending, Outcome
from training.run.ending import ending_of
from training.run.interruption import Interrupted
from training.run.launch import start
from training.run.log_lines import StepFigures
from training.run.run_folder import read_lines


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))


@pytest.fixture
def uninterrupted(recipe, tmp_path) -> list[tuple]:
    start(recipe, tmp_path / "uninterrupted", resume=False)
    return losses(tmp_path / "uninterrupted")


def test_sigterm_saves_a_checkpoint_and_ends_the_run(recipe, uninterrupted, tmp_path):
    def send_signal(done: StepFigures) -> None:
        if done.step == 2:  # the run then finishes step 3
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 3, which is saved") as stopped:
        start(recipe, tmp_path / "run", resume=False, on_step=send_signal)
    assert stopped.value.exit_code == 143
    start(recipe, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == uninterrupted


def test_sigusr1_saves_a_checkpoint_and_the_run_continues(recipe, uninterrupted, tmp_path):
    recipe = recipe.model_copy(update={"saving": recipe.saving.model_copy(update={"save_every": 1000})})
    checkpoints = CheckpointStore(tmp_path / "run" / "checkpoints", keep=9)
    seen = {0: [each.step for each in checkpoints.all()]}

    def send_signal(done: StepFigures) -> None:
        seen[done.step] = [each.step for each in checkpoints.all()]
        if done.step == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    start(recipe, tmp_path / "run", resume=False, on_step=send_signal)
    assert seen == {0: [], 1: [], 2: [], 3: [3], 4: [3], 5: [3], 6: [3, 6]}
    assert losses(tmp_path / "run") == uninterrupted
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_signal_in_the_first_evaluation_ends_it_and_the_run_can_start_again(
    recipe, uninterrupted, tmp_path, monkeypatch
):
    evaluated, evaluate = [], evaluating.evaluate

    def signalled(objective, batches, accelerator):
        def with_signal():
            for batch in batches:
                os.kill(os.getpid(), signal.SIGTERM)
                evaluated.append(batch)
                yield batch

        return evaluate(objective, with_signal(), accelerator)

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "evaluate", signalled)
        with pytest.raises(Interrupted, match="stopped before the first step") as stopped:
            start(recipe, tmp_path / "run", resume=False)
    assert stopped.value.exit_code == 143
    assert ending_of(stopped.value) == Ending(Outcome.STOPPED, message=str(stopped.value))
    assert len(evaluated) == 1  # a forward at the first of two block sizes
    assert read_lines(tmp_path / "run" / "evaluations.jsonl") == []
    start(recipe, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == uninterrupted
    assert [line["step"] for line in read_lines(tmp_path / "run" / "evaluations.jsonl")] == [0, 3, 6]
