"""Checkpoints of a run, exported as models."""

from pathlib import Path

import pytest

import nbdiff_engine as nb
from tests.training.runs import small_base, small_data, small_recipe
from training.errors import RunError
from training.run.checkpointing import CheckpointStore
from training.run.exporting import export, newest_or
from training.run.launch import start


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["all weights", "adapters"])
def test_an_exported_checkpoint_loads_as_a_model(tmp_path: Path, lora: dict | None) -> None:
    run = tmp_path / "run"
    base, data = small_base(tmp_path / "base"), small_data(tmp_path / "data.jsonl")
    saving = {"save_every": 3, "eval_every": 0, "keep": 5, "probes": False}
    start(small_recipe(base, data, lora=lora, saving=saving), run, resume=False)
    checkpoints = CheckpointStore(run / "checkpoints", 5).all()
    folder = export(run, newest_or(checkpoints, "3"), tmp_path / "opened")
    assert not (folder / "optimizer.safetensors").exists()
    model = nb.load(folder)
    assert model.spec.block_size == 8
    assert nb.generate(model, "red cat", max_new_tokens=8).token_ids
    assert export(run, newest_or(checkpoints, 3), tmp_path / "opened") == folder
    with pytest.raises(RunError, match="no checkpoint of step '4'"):
        newest_or(checkpoints, "4")
