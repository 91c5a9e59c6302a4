"""What weights are loaded as, and requests that cannot be met."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import nbdiff_engine as nb
import nbdiff_engine.model.checkpoints as checkpoints
from nbdiff_engine.model.weight_options import resolve_device, weight_options
from tests.conftest import GOLDEN
from tests.engine.model.refusals import refusal

WHOLE = GOLDEN / "tiny-block-diffusion"
PROMPT = "What is the capital of Peru?"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def with_bfloat16(monkeypatch):
    """A CPU with bfloat16 instructions, whatever this machine has."""
    monkeypatch.setattr("nbdiff_engine.model.weight_options.cpu_computes_bfloat16", lambda: True)


def test_a_cpu_that_computes_bfloat16_slowly_gets_float32(monkeypatch, caplog):
    monkeypatch.setattr("nbdiff_engine.model.weight_options.cpu_computes_bfloat16", lambda: False)
    described, cpu = nb.describe(WHOLE), torch.device("cpu")
    for saved in ("bfloat16", "float16"):
        stored = replace(described, saved_dtype=saved)
        assert weight_options(stored, "auto", cpu, None)["dtype"] == torch.float32
        assert weight_options(stored, "bfloat16", cpu, None)["dtype"] == torch.bfloat16
        assert weight_options(stored, "auto", torch.device("cuda"), None)["dtype"] == getattr(torch, saved)
    assert caplog.text == ""  # a float32 copy has the values of the stored weights
    monkeypatch.setattr("nbdiff_engine.model.weight_options.WIDENED_LIMIT", 4 * described.parameters - 1)
    assert weight_options(replace(described, saved_dtype="bfloat16"), "auto", cpu, None)["dtype"] == torch.bfloat16


def test_half_precision_on_a_cpu_is_said(caplog, with_bfloat16):
    described = replace(nb.describe(WHOLE), saved_dtype="float16")
    cpu = torch.device("cpu")
    assert weight_options(described, "auto", cpu, None)["dtype"] == torch.bfloat16
    assert "dtype='float32' keeps their values" in caplog.text
    caplog.clear()
    assert weight_options(described, "float16", cpu, None)["dtype"] == torch.float16
    assert weight_options(described, "auto", torch.device("cuda"), None)["dtype"] == torch.float16
    assert caplog.text == ""


def test_apples_gpu_is_chosen_and_has_no_float64(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    mps = resolve_device("auto")
    assert mps == torch.device("mps")
    described = nb.describe(WHOLE)
    for saved, wanted in (("float64", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        options = weight_options(replace(described, saved_dtype=saved), "auto", mps, None)
        assert options == {"dtype": wanted, "device_map": {"": "mps"}}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


def test_weights_that_are_stored_quantised(tmp_path):
    nb.load(WHOLE, dtype="bfloat16", quantization="4bit").network.save_pretrained(tmp_path)
    for path in WHOLE.glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    answers = set()
    for asked in ({}, {"quantization": "4bit"}, {"dtype": "bfloat16"}):
        model = nb.load(tmp_path, **asked)
        assert "Linear4bit" in {type(module).__name__ for module in model.network.modules()}
        answers.add(tuple(nb.generate(model, PROMPT, max_new_tokens=6).token_ids))
    assert len(answers) == 1
    assert "stored in 4bit, so quantization='8bit' cannot be met" in refusal(
        tmp_path, nb.SettingError, quantization="8bit"
    )
    assert "computed in bfloat16, so dtype='float32' cannot be met" in refusal(
        tmp_path, nb.SettingError, dtype="float32"
    )


def test_weights_that_another_method_has_quantised(tmp_path):
    folder = shutil.copytree(WHOLE, tmp_path / "copy")
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert "stored in gptq, so quantization='4bit' cannot be met" in refusal(
        folder, nb.SettingError, quantization="4bit"
    )
    assert "are quantised (gptq) and cannot be loaded here" in refusal(folder)


def test_layers_that_do_not_fit_one_device_are_spread(monkeypatch):
    """There is one device here: part of the layers go to the disk, as accelerate does when the memory is full."""
    plain = nb.load(WHOLE)
    layers = {f"model.layers.{number}": "disk" if number else "cpu" for number in range(4)}
    places = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu") | layers
    read = AutoModelForCausalLM.from_pretrained

    def spread(*args, device_map=None, **options):
        assert device_map == "auto"
        return read(*args, device_map=places, **options)

    monkeypatch.setattr(checkpoints.AutoModelForCausalLM, "from_pretrained", spread)
    model = nb.load(WHOLE, device_map="auto")
    assert model.network.model.layers[3].mlp.up_proj.weight.is_meta
    for strategy in ("ar", "self_speculative", "block_diffusion"):
        expected, found = (
            [each.token_ids for each in nb.generate(one, [PROMPT, "Hi"], strategy=strategy, max_new_tokens=8)]
            for one in (plain, model)
        )
        assert found == expected


def test_a_device_map_is_auto_or_none():
    assert "device_map is 'auto' or left out" in refusal(WHOLE, nb.SettingError, device_map="balanced")
    assert "device_map is 'auto' or left out" in refusal(WHOLE, nb.SettingError, device_map="auto", device="cpu")
    assert nb.generate(nb.load(WHOLE, device_map="auto"), PROMPT, max_new_tokens=4).token_ids
