"""The order of lookup of a checkpoint's name: bundled models, folders, the hub's cache, the hub."""

import json
import shutil

import pytest

import nbdiff_engine as nb
import nbdiff_engine.model.checkpoint_folders as checkpoint_folders
from tests.conftest import GOLDEN
from tests.engine.model.refusals import refusal


def test_unknown_names_and_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "not a bundled name (nano" in refusal("nosuch")
    assert "has no config.json" in refusal(tmp_path)
    assert "is a file" in refusal(tmp_path / "file")
    assert "is empty" in refusal("")


@pytest.mark.parametrize("name", [None, 5, b"nano", "~nosuch/x", "x" * 5000, "a\0b"], ids=lambda name: repr(name)[:12])
def test_invalid_names_are_refused(name):
    assert len(refusal(name)) < 300


def test_a_folder_that_has_the_name_of_a_cached_hub_model_is_used_and_said(tmp_path, monkeypatch, caplog):
    shutil.copytree(GOLDEN / "tiny-block-diffusion", tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert nb.describe("owner/name").folder == tmp_path / "owner" / "name"
    assert caplog.messages == []  # the hub cache has no model of this name
    monkeypatch.setattr(checkpoint_folders, "is_cached", lambda name: True)
    assert nb.describe("owner/name").folder == tmp_path / "owner" / "name"
    assert "owner/name is read from the local folder" in caplog.messages[0]


def test_a_folder_that_hides_a_hub_model_and_holds_none_is_said(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "While this folder exists" in refusal("owner/name")


def test_json_files_with_a_byte_order_mark_are_read(tmp_path):
    folder = shutil.copytree(GOLDEN / "tiny-block-diffusion", tmp_path / "copy")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    plain = nb.load(folder)
    for path in folder.glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    marked = nb.load(folder)
    assert marked.eos_token_ids == plain.eos_token_ids >= {7, 9}
    assert marked.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    assert marked.tokenizer.chat_template == plain.tokenizer.chat_template
    prompt = "What is the capital of Peru?"
    first, second = (nb.generate(model, prompt, max_new_tokens=4).token_ids for model in (plain, marked))
    assert first == second
