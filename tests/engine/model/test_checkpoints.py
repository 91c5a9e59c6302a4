"""Loading: a complete checkpoint loads; any other gives one clear sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import nbdiff_engine as nb
import nbdiff_engine.model.weight_options as weight_options
from tests.conftest import GOLDEN
from tests.engine.model.refusals import refusal


@pytest.fixture
def folder(tmp_path):
    """A copy of the trained checkpoint, for tests that damage it."""
    return shutil.copytree(GOLDEN / "tiny-block-diffusion", tmp_path / "copy")


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_every_bundled_model_loads_and_decodes():
    for name in nb.bundled_models():
        assert nb.generate(nb.load(name), "What is the capital of Peru?", max_new_tokens=4).token_ids


def test_a_folder_loads(folder):
    model = nb.load(folder)
    assert (model.dtype, model.device.type, model.spec.block_size) == (torch.float32, "cpu", 32)


def test_a_checkpoint_without_a_spec_is_ar_only_and_the_error_names_the_entry(folder):
    edit_config(folder, block_diffusion=None)
    model = nb.load(folder)
    assert model.spec is None
    assert nb.generate(model, "What is the capital of Peru?", max_new_tokens=5).settings["strategy"] == "ar"
    for strategy in ("block_diffusion", "self_speculative"):
        with pytest.raises(nb.SettingError, match="has no 'block_diffusion' entry"):
            nb.generate(model, "What is the capital of Peru?", strategy=strategy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_decodes(folder, dtype):
    model = nb.load(folder, dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert nb.generate(model, "What is the capital of Peru?", max_new_tokens=8).token_ids


def test_half_precision_becomes_bfloat16_on_a_cpu(folder, monkeypatch):
    monkeypatch.setattr("nbdiff_engine.model.weight_options.cpu_computes_bfloat16", lambda: True)
    edit_config(folder, torch_dtype="float16")
    assert nb.load(folder, device="cpu").dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantised_weights_decode_and_self_speculate(folder, quantization):
    model = nb.load(folder, quantization=quantization)
    kinds = {type(module).__name__ for module in model.network.modules()}
    assert {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantization] in kinds
    ar, fast = (
        nb.generate(model, "Name the capitals of Peru and Germany.", strategy=strategy, max_new_tokens=24)
        for strategy in ("ar", "self_speculative")
    )
    assert ar.token_ids
    assert fast.token_ids


def test_quantising_without_bitsandbytes_is_said(folder, monkeypatch):
    monkeypatch.setattr(weight_options.importlib.util, "find_spec", lambda name: None)
    assert "need the package bitsandbytes" in refusal(folder, nb.SettingError, quantization="4bit")


def test_options_out_of_range_are_refused(folder):
    assert "choose auto, float32, bfloat16 or float16" in refusal(folder, nb.SettingError, dtype="int4")
    assert "choose 8bit, 4bit" in refusal(folder, nb.SettingError, quantization="3bit")
    assert "is not available here" in refusal(folder, nb.SettingError, device="abacus")


def test_a_pickle_only_checkpoint_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pickle only (pytorch_model.bin)" in refusal(folder)


def test_a_damaged_config_is_refused(folder):
    (folder / "config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert "holds no JSON object" in refusal(folder)


def test_truncated_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"torch_dtype": "banana"},
        {"torch_dtype": ["a"]},
        {"model_type": ["llama"]},
        {"hidden_size": "x"},
        {"eos_token_id": "x"},
        {"max_position_embeddings": None},
        {"max_position_embeddings": 0},
        {"num_attention_heads": 0},
        {"rope_scaling": "x"},
        {"block_diffusion": {"mask_token_id": 1, "block_size": 10**9}},
        {"block_diffusion": {"mask_token_id": 1, "unmasking": "nosuch"}},
    ],
    ids=str,
)
def test_an_invalid_config_is_refused(folder, change):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert len(refusal(folder)) < 500


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["{", "[]", "[" * 200_000])
def test_damaged_files_are_refused(folder, name, content):
    (folder / name).write_text(content)
    assert len(refusal(folder)) < 500


@pytest.mark.parametrize("device", [None, "meta", "cuda:99", 3.5])
def test_unavailable_devices_are_refused(folder, device):
    assert "is not available here" in refusal(folder, nb.SettingError, device=device)


def test_missing_tensors_are_named(folder):
    edit_weights(folder, lambda weights: weights.pop("model.layers.2.mlp.up_proj.weight"))
    assert "missing: model.layers.2.mlp.up_proj.weight" in refusal(folder)


def test_unexpected_tensors_are_named(folder):
    edit_weights(folder, lambda weights: weights.update({"model.layers.0.extra.weight": torch.zeros(3)}))
    assert "unexpected: model.layers.0.extra.weight" in refusal(folder)


def test_tensors_of_another_shape_are_refused(folder):
    edit_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.zeros(3)}))
    assert "model.norm.weight" in refusal(folder)


def test_unsupported_model_types_are_refused_by_name(folder):
    edit_config(folder, model_type="llada2_moe")
    assert "LLaDA2" in refusal(folder)
    edit_config(folder, model_type="somethingnew", auto_map={"AutoModelForCausalLM": "evil.Evil"})
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
    assert "which is never run here" in refusal(folder)


def test_a_checkpoint_without_a_tokenizer_takes_token_ids(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    model = nb.load(folder)
    assert nb.generate(model, [2, 440, 3], max_new_tokens=4).token_ids
    with pytest.raises(nb.PromptError, match="has no tokenizer"):
        nb.generate(model, "Hello")
