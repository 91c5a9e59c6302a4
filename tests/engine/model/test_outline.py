"""The outline of a checkpoint: its size and what it can do, without its weights."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from nbdiff_engine import CheckpointError, bundled_models, describe
from nbdiff_engine.model import gguf_files
from nbdiff_engine.model.hub_checkpoints import cached_checkpoints
from nbdiff_engine.model.outline import outline


def write_draft_folder(folder: Path, base: str) -> Path:
    """The files of a draft adapter that a list reads."""
    folder.mkdir()
    weights = bundled_models()["nano"] / "model.safetensors"
    shutil.copy(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    identity = {"name": base, "model_type": "llama", "parameters": 9, "fingerprint": "0" * 64}
    (folder / "draft_adapter.json").write_text(json.dumps({"block_size": 6, "base": identity}))
    return folder


@pytest.mark.parametrize(("name", "words"), [("nano", "blocks of 32"), ("nano-ar", "AR only")])
def test_a_checkpoint_has_its_size_and_its_blocks(name: str, words: str) -> None:
    folder = bundled_models()[name]
    found = outline(folder)
    assert str(found) == words
    assert found.parameters == describe(name).parameters
    assert found.stored == (folder / "model.safetensors").stat().st_size


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    assert str(outline(write_draft_folder(tmp_path / "drafts", "smollm2"))) == "drafts for smollm2"
    lora = write_draft_folder(tmp_path / "lora", str(tmp_path / "models" / "mine"))
    (lora / "draft_adapter.json").unlink()
    assert str(outline(lora)) == "AR only, adapter of mine"
    (lora / "block_diffusion.json").write_text('{"mask_token_id": 5, "block_size": 16}')
    assert str(outline(lora)) == "blocks of 16, adapter of mine"


def test_what_is_no_checkpoint_has_no_outline_and_a_damaged_one_raises(tmp_path: Path) -> None:
    assert outline(tmp_path) is None
    (tmp_path / "note.txt").write_text("x")
    assert outline(tmp_path / "note.txt") is None
    (tmp_path / "a.gguf").write_bytes(b"1234")
    assert (outline(tmp_path / "a.gguf").stored, str(outline(tmp_path / "a.gguf"))) == (4, "AR only")
    (tmp_path / "config.json").write_text('{"model_type": "llada"}')
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(CheckpointError, match="damaged"):
        outline(tmp_path)
    shutil.copy(bundled_models()["nano"] / "model.safetensors", tmp_path / "model.safetensors")
    assert "denoises its whole answer at once" in outline(tmp_path).problem
    assert str(outline(tmp_path)) == "cannot be decoded here"


def test_the_complete_checkpoints_of_the_hub_cache_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connections: list[tuple]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, files in (
        ("whole", ["config.json", "model.safetensors"]),
        ("part", ["config.json"]),
        ("packed", ["q4.gguf"]),
    ):
        place = tmp_path / f"models--owner--{name}"
        (place / "snapshots" / "abc").mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("abc")
        for file in files:
            (place / "snapshots" / "abc" / file).write_text("{}")
    (tmp_path / "models--owner--empty").mkdir()
    snapshot = tmp_path / "models--owner--packed" / "snapshots" / "abc"
    assert cached_checkpoints() == {
        "owner/packed/q4.gguf": snapshot / "q4.gguf",
        "owner/whole": tmp_path / "models--owner--whole" / "snapshots" / "abc",
    }
    assert connections == []


def test_a_conversion_is_listed_while_its_file_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "gguf_home", lambda: tmp_path)
    file = tmp_path / "a.gguf"
    for name, content in (("1-1", json.dumps({"file": str(file)})), ("2-2", "{}"), ("3-3", "damaged")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gguf_source.json").write_text(content)
    assert gguf_files.conversions() == {}
    file.write_bytes(b"1")
    assert gguf_files.conversions() == {file: tmp_path / "1-1"}
