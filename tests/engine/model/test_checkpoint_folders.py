"""The order of lookup of a checkpoint's name: bundled models, folders, the hub's cache, the hub."""

import shutil

import pytest

import nbdiff_engine as nb
from tests.conftest import GOLDEN


def refusal(name) -> str:
    with pytest.raises(nb.NBDiffError) as caught:
        nb.load(name)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_unknown_names_and_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "not a bundled name (nano" in refusal("nosuch")
    assert "has no config.json" in refusal(tmp_path)
    assert "is a file" in refusal(tmp_path / "file")
    assert "is empty" in refusal("")


def test_a_hub_id_is_refused_offline_without_a_connection(connections):
    assert "HF_HUB_OFFLINE is set" in refusal("someone/some-model")
    assert connections == []


def test_an_unreachable_hub_is_contacted_once(monkeypatch, connections):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refusal("someone/some-model")
    assert len(connections) == 1


@pytest.mark.parametrize("name", [None, 5, b"nano", "~nosuch/x", "x" * 5000, "a\0b"], ids=lambda name: repr(name)[:12])
def test_invalid_names_are_refused(name):
    assert len(refusal(name)) < 300


def test_an_interrupted_download_is_resumed(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    complete = GOLDEN / "tiny-block-diffusion"
    cached = tmp_path / "cached"
    cached.mkdir()
    shutil.copy(complete / "config.json", cached)
    local_only = []

    def snapshot_download(hub_id, local_files_only=False, **options):
        local_only.append(local_files_only)
        return str(cached if local_files_only else complete)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: type("Hub", (), {"head": lambda *a, **k: None}))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert nb.load("someone/some-model").parameters > 0
    assert local_only == [True, False]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("someone/some-model")
