"""A network split over processes (FSDP2) has the losses of one process, and its checkpoints go to any number."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import nbdiff_engine as nb
from tests.training.run.processes import adapt
from tests.training.runs import losses, small_base, small_data, small_recipe
from training.errors import RecipeError
from training.run.checkpointing import CheckpointStore
from training.run.exporting import export, newest_or
from training.run.launch import start
from training.run.sharding import check_sharding
from training.run.shards import is_sharded

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": {"rank": 4}},
    "draft": {"lora": {"mode": "draft_only", "rank": 2}, "blocks": {"kind": "fixed", "b_max": 4}},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return small_base(folder / "base"), small_data(folder / "data.jsonl")


def step_losses(folder: Path) -> list[float]:
    return [loss for _, loss, *_ in losses(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    name = "model" if (folder / "config.json").is_file() else "adapter_model"
    return load_file(folder / f"{name}.safetensors")


def test_two_processes_with_a_part_each_have_the_losses_of_one(tmp_path, inputs):
    start(small_recipe(*inputs, optimisation={"accumulation": 2}), tmp_path / "one", resume=False)
    log = adapt(small_recipe(*inputs, shard=True), tmp_path / "two", 2)
    assert "2 process(es) of FSDP2" in log
    assert step_losses(tmp_path / "two") == pytest.approx(step_losses(tmp_path / "one"), rel=1e-4)
    one, two = (weights(tmp_path / name / "final") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=0)
    assert nb.load(tmp_path / "two" / "final").spec.block_size == 8


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sharded"), [("full", True), ("lora", False), ("draft", True)])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path, inputs, kind, sharded):
    """Four processes stop after three steps, one goes on to the fifth, and two finish: the global batch is the same."""
    own = KINDS[kind]
    saving = {"save_every": 1, "keep": 9, "sharded": sharded}

    def recipe(accumulation: int, steps: int, shard: bool = True):
        schedule = {"accumulation": accumulation, "max_steps": steps, "warmup": 0.0, "decay": 0.0}
        return small_recipe(*inputs, optimisation=schedule, saving=saving, shard=shard, **own)

    constant = small_recipe(*inputs, optimisation={"accumulation": 4, "warmup": 0.0, "decay": 0.0}, **own)
    start(constant, tmp_path / "constant", resume=False)
    run = tmp_path / "run"
    adapt(recipe(1, 6), run, 4)
    assert step_losses(run) == pytest.approx(step_losses(tmp_path / "constant"), rel=1e-3)
    for step in (4, 5, 6):
        _remove(run / "checkpoints" / f"step-{step:08d}")
    assert is_sharded(run / "checkpoints" / "step-00000003") == sharded
    start(recipe(4, 6, shard=False), run, resume=True)
    assert step_losses(run) == pytest.approx(step_losses(tmp_path / "constant"), rel=1e-3)
    for step in (4, 5, 6):
        _remove(run / "checkpoints" / f"step-{step:08d}")
    adapt(recipe(2, 6), run, 2, "--resume")
    assert step_losses(run) == pytest.approx(step_losses(tmp_path / "constant"), rel=1e-3)
    checkpoints = CheckpointStore(run / "checkpoints", 9).all()
    exported = export(run, newest_or(checkpoints, 6), tmp_path / "exported")
    for name, tensor in weights(run / "final").items():
        torch.testing.assert_close(weights(exported)[name], tensor, atol=1e-6, rtol=0)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink()
    folder.rmdir()


@pytest.mark.slow
def test_four_processes_by_ddp_and_by_the_config_of_accelerate(tmp_path, inputs):
    start(small_recipe(*inputs, optimisation={"accumulation": 4}), tmp_path / "one", resume=False)
    assert "4 process(es) of MULTI_CPU" in adapt(small_recipe(*inputs), tmp_path / "ddp", 4)
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as `accelerate launch` sets them
    assert "4 process(es) of FSDP2" in adapt(small_recipe(*inputs), tmp_path / "fsdp", 4, **environment)
    for name in ("ddp", "fsdp"):
        assert step_losses(tmp_path / name) == pytest.approx(step_losses(tmp_path / "one"), rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimisation": {"optimizer": "muon"}}, "Muon needs whole matrices"),
        ({"compile": True}, "leave compile out"),
        ({"quantization": "4bit", "lora": {"rank": 2}}, "leave quantization out"),
        ({"saving": {"probes": True}}, "one process alone cannot decode"),
    ],
)
def test_what_does_not_go_with_a_split_is_refused(inputs, settings, message):
    with pytest.raises(RecipeError, match=message):
        check_sharding(small_recipe(*inputs, shard=True, **settings))
