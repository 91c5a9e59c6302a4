"""Which files are read as weights, and that their values are numbers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import nbdiff_engine as nb
from nbdiff_engine.model.weight_files import is_download_complete, require_finite
from tests.conftest import GOLDEN
from tests.engine.model.refusals import refusal

WHOLE = GOLDEN / "tiny-block-diffusion"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(WHOLE, tmp_path / "copy")


def shard(folder) -> list[str]:
    """Split the weights into two files with an index; returns the names of the files."""
    weights = load_file(folder / "model.safetensors")
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = sorted(weights)[::2], sorted(weights)[1::2]
    for name, half in zip(names, halves, strict=True):
        save_file({key: weights[key] for key in half}, folder / name, metadata={"format": "pt"})
    weight_map = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return names


def test_shards_are_read_and_a_missing_one_is_named(folder):
    whole = nb.describe(WHOLE).parameters
    first, second = shard(folder)
    assert is_download_complete(folder)
    assert nb.describe(folder).parameters == whole == nb.load(folder).parameters
    (folder / second).rename(folder / "elsewhere")
    assert not is_download_complete(folder)
    assert refusal(folder)
    (folder / first).unlink()
    assert f"lacks 2 files of its weights; the first is {first}" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "cannot be read; the checkpoint is damaged" in refusal(folder)


def test_consolidated_weights_beside_the_others_are_neither_counted_nor_read(folder):
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    assert nb.describe(folder).parameters == nb.describe(WHOLE).parameters
    assert nb.load(folder).parameters == nb.load(WHOLE).parameters
    (folder / "model.safetensors").unlink()
    assert "Mistral's own format (consolidated.safetensors)" in refusal(folder)
    (folder / "consolidated.safetensors").rename(folder / "weights.safetensors")
    assert "names that transformers does not read (weights.safetensors)" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_refused_by_the_tensors_name(folder, value):
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    weights[name][3, 5] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"The tensor {name} of {folder} holds values that are no numbers" in refusal(folder)


def test_large_finite_values_are_numbers():
    layer = torch.nn.Linear(64, 64, bias=False)
    torch.nn.init.constant_(layer.weight, 3e38)  # their sum is not finite in float32
    require_finite(layer, "large")
