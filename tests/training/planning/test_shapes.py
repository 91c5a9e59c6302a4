"""Shapes of bases without their weights: published checkpoints, and folders with a config."""

import json

import pytest
import torch

from nbdiff_engine.errors import CheckpointError
from tests.training.bases import write_base
from training.planning.shapes import PUBLISHED, find_shape


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-4B-Base", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-8B-Base", 8_190_735_360),
    ],
)
def test_published_shapes_have_the_published_parameter_count(name, parameters):
    assert find_shape(name).network().num_parameters() == parameters


def test_pangu_7b_has_7_billion_parameters_without_embeddings():
    network = find_shape("openpangu/openPangu-Embedded-7B").network()
    embeddings = network.get_input_embeddings().weight.numel() + network.get_output_embeddings().weight.numel()
    assert network.num_parameters() - embeddings == pytest.approx(7e9, rel=0.05)
    assert {find_shape(f"someone/{name}").folder for name in PUBLISHED} == {None}


def test_an_unknown_shape_raises_one_sentence():
    with pytest.raises(CheckpointError, match="is not known here, and HF_HUB_OFFLINE is set"):
        find_shape("someone/something")
    with pytest.raises(CheckpointError, match="not a bundled name"):
        find_shape("nosuch")


@pytest.mark.parametrize(
    ("saved", "trained"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.bfloat16)],
)
def test_the_dtype_of_a_folder_is_the_training_dtype(tmp_path, saved, trained):
    shape = find_shape(str(write_base(tmp_path, dtype=getattr(torch, saved))))
    assert (shape.dtype, shape.folder, shape.config.model_type) == (trained, tmp_path, "llama")
    assert shape.network().device.type == "meta"


def test_a_published_family_has_the_shape_of_its_stock_class(tmp_path):
    folder = write_base(tmp_path, attention_bias=True, mlp_bias=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "PanguEmbedded"}))
    shape = find_shape(str(folder))
    assert (shape.config.model_type, shape.config.attention_bias) == ("llama", True)
