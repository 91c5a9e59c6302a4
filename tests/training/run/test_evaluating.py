"""Evaluations of a run: when, at which block sizes, what they decide, and where their figures go."""

import pytest
import torch
from accelerate import Accelerator

import nbdiff_engine as nb
from tests.training.runs import losses, small_base, small_data, small_recipe
from training.errors import RecipeError
from training.recipe.recipe import Recipe
from training.run import evaluating
from training.run.checkpointing import CheckpointStore
from training.run.launch import make_trainer, start
from training.run.log_lines import HeldOutEvaluation, HeldOutLosses
from training.run.run_folder import RunFolder, read_lines


@pytest.fixture
def sources(tmp_path):
    return small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")


def recipe_of(sources, **sections) -> Recipe:
    return small_recipe(*sources, **sections)


def scripted(monkeypatch, mdm: dict[int, float]) -> None:
    """Replace the held-out losses: `mdm` by step, at every block size."""

    def losses_at(self, step, complete, stopped=None):
        sizes = self.sizes if complete else [self.last_size]
        return HeldOutEvaluation(step, {size: HeldOutLosses(mdm[step], 1.0) for size in sizes})

    monkeypatch.setattr(evaluating.Evaluator, "losses_at", losses_at)


def test_evaluations_begin_before_training_and_only_the_last_has_every_block_size(sources, tmp_path):
    start(recipe_of(sources), tmp_path / "run", resume=False)
    lines = read_lines(tmp_path / "run" / "evaluations.jsonl")
    # Six steps with blocks of 1, 2, 4, 4, 8, 8: the size of the step, and the last one.
    assert [(line["step"], list(line["losses"])) for line in lines] == [
        (0, ["1", "8"]),
        (3, ["4", "8"]),
        (6, ["1", "2", "4", "8"]),
    ]
    assert lines[0]["losses"]["8"]["loss_mdm"] > lines[2]["losses"]["8"]["loss_mdm"]


def test_evaluations_change_no_loss_of_the_run(sources, tmp_path):
    start(recipe_of(sources, saving={"eval_every": 1}), tmp_path / "often", resume=False)
    start(recipe_of(sources, saving={"eval_every": 0, "probes": False}), tmp_path / "once", resume=False)
    assert losses(tmp_path / "often") == losses(tmp_path / "once")
    assert [line["step"] for line in read_lines(tmp_path / "once" / "evaluations.jsonl")] == [6]


def test_the_acceptance_of_self_speculation_is_measured_with_the_probes(sources, tmp_path):
    start(recipe_of(sources), tmp_path / "probed", resume=False)
    start(recipe_of(sources, saving={"probes": False}), tmp_path / "plain", resume=False)
    for line in read_lines(tmp_path / "probed" / "evaluations.jsonl"):
        assert 0 <= line["accepted_drafts"] <= 7  # of a block of 8, whose first token is AR's
    assert not any("accepted_drafts" in line for line in read_lines(tmp_path / "plain" / "evaluations.jsonl"))


def test_the_best_step_is_kept_and_final_is_made_from_it(sources, tmp_path, monkeypatch):
    scripted(monkeypatch, {0: 0.5, 1: 3.0, 2: 2.0, 3: 2.5, 4: 2.5, 5: 2.5, 6: 2.5})
    saving = {"eval_every": 1, "save_every": 1, "keep": 1, "best": "final"}
    start(recipe_of(sources, saving=saving), tmp_path / "run", resume=False)
    folder = RunFolder(tmp_path / "run")
    assert [each.step for each in CheckpointStore(folder.checkpoints, 1).all()] == [2, 6]
    final = nb.load(folder.final, dtype="float32").network.state_dict()
    best = nb.load(folder.checkpoints / "step-00000002", dtype="float32").network.state_dict()
    assert all(torch.equal(final[name], best[name]) for name in best)
    card = (folder.final / "README.md").read_text()
    assert "| weights | of step 2: the lowest held-out loss of the run |" in card
    assert "after step 2." in card


def test_with_keep_final_is_the_last_step_and_the_best_checkpoint_stays(sources, tmp_path, monkeypatch):
    scripted(monkeypatch, {0: 0.5, 1: 3.0, 2: 2.0, 3: 2.5, 4: 2.5, 5: 2.5, 6: 2.5})
    saving = {"eval_every": 1, "save_every": 6, "keep": 1, "best": "keep"}
    start(recipe_of(sources, saving=saving), tmp_path / "run", resume=False)
    folder = RunFolder(tmp_path / "run")
    assert [each.step for each in CheckpointStore(folder.checkpoints, 1).all()] == [2, 6]
    assert "| weights | of step 6: the last of the run |" in (folder.final / "README.md").read_text()


def test_a_run_ends_when_its_patience_is_over_and_goes_on_with_more(sources, tmp_path, monkeypatch, caplog):
    scripted(monkeypatch, {0: 0.5, 1: 3.0, 2: 2.0, 3: 2.5, 4: 2.5, 5: 1.5, 6: 2.5})
    saving = {"eval_every": 1, "patience": 2}
    with caplog.at_level("INFO"):
        start(recipe_of(sources, saving=saving), tmp_path / "run", resume=False)
    assert [line[0] for line in losses(tmp_path / "run")] == [1, 2, 3, 4]
    assert "ended after step 4: 2 evaluations were not better" in caplog.text
    assert "which ended before step 6" in (tmp_path / "run" / "final" / "README.md").read_text()
    start(recipe_of(sources, saving=saving), tmp_path / "run", resume=True)
    assert len(losses(tmp_path / "run")) == 4
    start(recipe_of(sources, saving={**saving, "patience": 3}), tmp_path / "run", resume=True)
    assert [line[0] for line in losses(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_resumed_run_knows_its_best_step(sources, tmp_path, monkeypatch):
    scripted(monkeypatch, {0: 0.5, 1: 3.0, 2: 2.0, 3: 2.5, 4: 2.5, 5: 2.5, 6: 2.5})
    saving = {"eval_every": 1, "save_every": 1, "keep": 1, "best": "final"}

    def stop(done):
        if done.step == 4:
            raise MemoryError

    with pytest.raises(MemoryError):
        start(recipe_of(sources, saving=saving), tmp_path / "run", resume=False, on_step=stop)
    start(recipe_of(sources, saving=saving), tmp_path / "run", resume=True)
    store = CheckpointStore(RunFolder(tmp_path / "run").checkpoints, 1)
    assert [each.step for each in store.all()] == [2, 6]
    assert [line["step"] for line in read_lines(tmp_path / "run" / "evaluations.jsonl")] == [0, 1, 2, 3, 4, 5, 6]


def test_the_figures_of_evaluations_and_probes_go_to_the_trackers(sources, tmp_path, monkeypatch):
    logged: list[tuple[int, str]] = []

    def log(self, values, step=None, log_kwargs=None):
        logged.extend((step, name) for name in values)

    monkeypatch.setattr(Accelerator, "log", log)
    make_trainer(recipe_of(sources), tmp_path / "run", resume=False).run()
    assert {(0, "held_out/loss_mdm_8"), (3, "held_out/loss_ar_4"), (6, "held_out/loss_mdm_2")} <= set(logged)
    assert {(0, "held_out/accepted_drafts"), (2, "probes/tokens_per_forward"), (1, "loss")} <= set(logged)
    assert (0, "held_out/loss_mdm_1") not in logged  # there is no masked token in blocks of one


@pytest.mark.parametrize("setting", [{"best": "keep"}, {"patience": 2}])
def test_best_and_patience_need_evaluations_and_held_out_documents(sources, tmp_path, setting):
    name = next(iter(setting))
    with pytest.raises(ValueError, match=rf"saving.{name} is .* saving.eval_every is 0"):
        recipe_of(sources, saving={**setting, "eval_every": 0})
    with pytest.raises(ValueError, match=rf"saving.{name} needs held-out documents, but data.held_out is 0"):
        recipe_of(sources, saving=setting, data={"held_out": 0})
    one_row = small_data(tmp_path / "one.jsonl", rows=1)
    with pytest.raises(RecipeError, match=rf"saving.{name} needs held-out documents, but the data has too few"):
        start(recipe_of((sources[0], one_row), saving=setting), tmp_path / "run", resume=False)
