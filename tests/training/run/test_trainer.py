"""Complete runs: their files, that the loss falls, and that no interruption changes a loss."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

import nbdiff_engine as nb
from tests import forked
from tests.training import held_trainer
from tests.training.runs import losses, small_base, small_data, small_recipe, written
from training.errors import RunError
from training.recipe.recipe import Recipe
from training.run import shards
from training.run.launch import make_trainer, start
from training.run.log_lines import StepFigures

ROOT = Path(__file__).parents[3]


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"))


@pytest.fixture
def uninterrupted(recipe, tmp_path) -> list[tuple]:
    start(recipe, tmp_path / "uninterrupted", resume=False)
    return losses(tmp_path / "uninterrupted")


def stop_after(step: int, error: BaseException) -> Callable[[StepFigures], None]:
    """A callback for `on_step` that raises `error` after step `step`."""

    def stop(done: StepFigures) -> None:
        if done.step == step:
            raise error

    return stop


def test_a_run_writes_recipe_metrics_checkpoints_card_and_a_model_that_decodes(recipe, tmp_path):
    final = start(recipe, tmp_path / "run", resume=False)
    assert final == tmp_path / "run" / "final"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["block_size"] for line in lines] == [1, 2, 4, 4, 8, 8]
    keys = "step loss loss_mdm loss_ar block_size lr tokens_seen tokens_per_second seconds"
    assert set(lines[0]) >= set(keys.split())
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_mdm"] + 0.5 * line["loss_ar"])
    evaluations = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in evaluations] == [0, 3, 6]
    assert set(evaluations[-1]["losses"]) == {"1", "2", "4", "8"}
    assert Recipe.read(str(tmp_path / "run" / "recipe.yaml")) == recipe
    assert "Held-out losses" in (final / "README.md").read_text()
    model = nb.load(final)
    assert model.spec.block_size == 8
    assert nb.generate(model, "red dog", max_new_tokens=8).token_ids


def test_a_run_writes_no_pickle(recipe, tmp_path):
    start(recipe, tmp_path / "run", resume=False)
    endings = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert endings <= {".json", ".jsonl", ".yaml", ".safetensors", ".md", ".jinja"}


def test_the_held_out_losses_fall(tmp_path):
    recipe = small_recipe(
        small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"), optimisation={"max_steps": 40, "rows": 8}
    )
    start(recipe, tmp_path / "run", resume=False)
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0])["losses"]["8"], json.loads(lines[-1])["losses"]["8"]
    assert last["loss_mdm"] < first["loss_mdm"] - 1
    assert last["loss_ar"] < first["loss_ar"] - 1


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(recipe, tmp_path, optimizer):
    steps = recipe.optimisation.model_copy(update={"optimizer": optimizer})
    recipe = recipe.model_copy(update={"optimisation": steps})
    start(recipe, tmp_path / "uninterrupted", resume=False)
    with pytest.raises(MemoryError):
        start(recipe, tmp_path / "resumed", resume=False, on_step=stop_after(5, MemoryError()))
    assert [line[0] for line in losses(tmp_path / "resumed")] == [1, 2, 3, 4, 5]
    start(recipe, tmp_path / "resumed", resume=True)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "uninterrupted")


def test_with_a_damaged_newest_checkpoint_a_run_resumes_from_the_one_before(recipe, uninterrupted, tmp_path):
    with pytest.raises(MemoryError):
        start(recipe, tmp_path / "resumed", resume=False, on_step=stop_after(5, MemoryError()))
    damaged = tmp_path / "resumed" / "checkpoints" / "step-00000004" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    with (tmp_path / "resumed" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')  # a line that a kill has cut
    start(recipe, tmp_path / "resumed", resume=True)
    assert losses(tmp_path / "resumed") == uninterrupted


def test_a_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(recipe, tmp_path):
    def set_nan(done: StepFigures) -> None:
        if done.step == 3:
            with torch.no_grad():
                next(iter(trainer.parameters.values())).fill_(torch.nan)

    trainer = make_trainer(recipe, tmp_path / "run", resume=False, on_step=set_nan)
    with pytest.raises(RunError, match=r"loss of step 4 is nan .* the checkpoint of step 2 is kept"):
        trainer.run()


def test_every_step_is_reported_as_it_is_logged(recipe, tmp_path):
    reported: list[StepFigures] = []
    start(recipe, tmp_path / "run", resume=False, on_step=reported.append)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [each.to_json() for each in reported] == [json.loads(line) for line in lines]


def test_no_step_is_taken_with_an_infinite_gradient(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda self, parameters, norm: torch.tensor(torch.inf))
    with pytest.raises(RunError, match=r"gradient norm inf; .* there is no checkpoint yet"):
        start(recipe, tmp_path / "run", resume=False)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_row_that_cannot_be_encoded_is_left_out_and_counted(tmp_path, caplog):
    data = small_data(tmp_path / "data.jsonl")
    lines = data.read_text().splitlines()
    lines[30] = json.dumps({"prompt": "a <mask> here", "completion": "red"})
    data.write_text("\n".join(lines))
    options = {"optimisation": {"max_steps": 12, "rows": 4}, "data": {"control_tokens": True, "bad_rows": 0.1}}
    start(small_recipe(small_base(tmp_path / "base"), data, **options), tmp_path / "run", resume=False)
    assert "Row 31 of data.jsonl" in caplog.text
    assert "could not be used and was left out" in caplog.text


def test_pretraining_reads_any_data(tmp_path):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = {"config": {**shape, "num_key_value_heads": 2}, "tokenizer": {"vocab_size": 300}}
    recipe = small_recipe(tmp_path, small_data(tmp_path / "data.jsonl"), kind="pretrain", network=network)
    model = nb.load(start(recipe, tmp_path / "run", resume=False))
    assert model.spec is None
    assert model.tokenizer.decode(model.tokenizer("red dog")["input_ids"]) == "red dog"


def test_a_full_disk_keeps_the_last_good_checkpoint(recipe, uninterrupted, tmp_path, monkeypatch):
    save_file = shards.save_file

    def fail_at_step_4(tensors, path, *more, **options):
        if "step-00000004" in str(path):
            raise OSError(28, "No space left on device")
        return save_file(tensors, path, *more, **options)

    monkeypatch.setattr(shards, "save_file", fail_at_step_4)
    with pytest.raises(RunError, match="the disk is full; the checkpoint of step 2 is kept"):
        start(recipe, tmp_path / "run", resume=False)
    monkeypatch.undo()
    start(recipe, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == uninterrupted


def test_two_accumulated_batches_equal_one_of_twice_the_rows(tmp_path):
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")
    for name, steps in (("wide", {"rows": 4}), ("accumulated", {"rows": 2, "accumulation": 2})):
        start(small_recipe(base, data, blocks={"b_0": 1, "b_max": 1}, optimisation=steps), tmp_path / name, False)
    # Block size 1, because larger blocks are noised with another random state in each micro-batch.
    for one, other in zip(losses(tmp_path / "wide"), losses(tmp_path / "accumulated"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(
    "sections",
    [
        {"objective": {"context": "block_causal"}},
        {"objective": {"token_shift": False, "context": "block_causal", "ar_weight": 0}},
        {"objective": {"complementary_masks": True}},
        {"objective": {"at_least_one_mask": True}},
        {"objective": {"mask_annealing": 0.8}},
        {"objective": {"ar_weight": 0}, "blocks": {"kind": "fixed"}},  # plain fine-tuning
        {"objective": {"ar_weight": 0.5, "ar_weight_end": 0.0}},
        {"optimisation": {"gradient_checkpointing": True}},
        {"precision": "bf16"},
        {"blocks": {"kind": "list", "sizes": (1, 8), "starts": (0, 0.5)}},
    ],
    ids=str,
)
def test_a_run_with_each_option_trains_and_decodes(sections, tmp_path):
    sections = {name: {**value} if isinstance(value, dict) else value for name, value in sections.items()}
    recipe = small_recipe(small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl"), **sections)
    model = nb.load(start(recipe, tmp_path / "run", resume=False), dtype="float32")
    assert model.spec.context == recipe.objective.context
    assert model.spec.token_shift == recipe.objective.token_shift
    assert nb.generate(model, "red dog", strategy="block_diffusion", max_new_tokens=8).token_ids


def test_lambda_is_annealed_linearly(tmp_path):
    recipe = small_recipe(
        small_base(tmp_path / "base"),
        small_data(tmp_path / "data.jsonl"),
        objective={"ar_weight": 0.6, "ar_weight_end": 0.0},
    )
    start(recipe, tmp_path / "run", resume=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["ar_weight"] for line in lines] == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_the_packed_length_is_limited_to_the_context_of_the_base(tmp_path, caplog):
    recipe = small_recipe(
        small_base(tmp_path / "base"),
        small_data(tmp_path / "data.jsonl"),
        optimisation={"packed_length": 8192, "rows": 1},
    )
    with caplog.at_level("INFO"):
        start(recipe, tmp_path / "run", resume=False)
    assert "packed length cut from 8192 to 256" in caplog.text


# -- processes -------------------------------------------------------------------------------------------


def command(recipe: Recipe, tmp_path: Path, output: Path, *more: str) -> list[str]:
    file = written(recipe, tmp_path / "recipe.yaml")
    return ["-m", "training", "adapt", "--recipe", str(file), "--output", str(output), *more]


@pytest.mark.slow
def test_a_run_killed_three_times_has_the_losses_of_an_uninterrupted_one(tmp_path):
    recipe = small_recipe(
        small_base(tmp_path / "base"),
        small_data(tmp_path / "data.jsonl"),
        optimisation={"max_steps": 300},
        saving={"save_every": 7, "eval_every": 0},
    )
    start(recipe, tmp_path / "uninterrupted", resume=False)
    run, limit, log = tmp_path / "run", tmp_path / "limit", tmp_path / "log"
    for kill in range(3):
        resume = ["--resume"] if kill else []
        wanted = 60 * (kill + 1)
        held_trainer.allow(limit, wanted + 40)
        _, _, *arguments = command(recipe, tmp_path, run, *resume)
        environment = {"NBDIFF_TEST_LIMIT": str(limit)}
        process = forked.start("tests.training.held_trainer", arguments, log, log, environment)
        deadline = time.monotonic() + 240
        while not (run / "metrics.jsonl").exists() or len(losses_so_far(run)) < wanted:
            assert process.exitcode is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.join()
    assert not (run / "final").exists()
    _, module, *arguments = command(recipe, tmp_path, run, "--resume")
    done = forked.run_module(module, *arguments)
    assert done.returncode == 0, done.stderr
    assert losses(run) == losses(tmp_path / "uninterrupted")


def losses_so_far(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_twice_the_accumulation(tmp_path):
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")
    start(small_recipe(base, data, optimisation={"accumulation": 2}), tmp_path / "one", resume=False)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, *command(small_recipe(base, data), tmp_path, tmp_path / "two")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "2 process(es) of MULTI_CPU" in done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "two" / "final")]
    assert done.stderr.count("attention: documents") == 1
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4)
    evaluations = [(tmp_path / name / "evaluations.jsonl").read_text().splitlines()[-1] for name in ("one", "two")]
    one, two = (json.loads(line)["losses"]["8"] for line in evaluations)
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_two_processes_with_one_held_out_row_and_a_resume(tmp_path):
    """No process waits for another at evaluation, one process writes the logs, and resuming keeps the batch size."""
    recipe = small_recipe(
        small_base(tmp_path / "base"),
        small_data(tmp_path / "data.jsonl"),
        data={"held_out": 1},
        saving={"save_every": 3},
    )
    run = tmp_path / "run"
    _, module, *arguments = command(recipe, tmp_path, run)
    done = forked.run_ranks(module, *arguments, processes=2)
    assert done.returncode == 0, done.stderr
    before = losses(run)
    newest = run / "checkpoints" / "step-00000006" / "state.json"
    newest.write_text("damaged")
    single = forked.run_module(module, *arguments, "--resume")
    assert single.returncode == 2
    assert "would read 2; change optimisation.accumulation or the number of processes" in single.stderr
    done = forked.run_ranks(module, *arguments, "--resume", processes=2)
    assert done.returncode == 0, done.stderr
    for one, other in zip(losses(run), before, strict=True):
        assert one == pytest.approx(other)
