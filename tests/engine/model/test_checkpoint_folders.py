"""Names of checkpoints: bundled first, then folders, then the hub's cache, then the hub."""

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


def test_unknown_names_and_folders(tmp_path):
    (tmp_path / "file").write_text("")
    assert "not a bundled name (nano" in refusal("nosuch")
    assert "has no config.json" in refusal(tmp_path)
    assert "is a file" in refusal(tmp_path / "file")
    assert "is empty" in refusal("")


def test_a_hub_id_offline_is_answered_at_once(connections):
    assert "HF_HUB_OFFLINE is set" in refusal("someone/some-model")
    assert connections == []


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, connections):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refusal("someone/some-model")
    assert len(connections) == 1


@pytest.mark.parametrize("name", [None, 5, b"nano", "~nosuch/x", "x" * 5000, "a\0b"], ids=lambda name: repr(name)[:12])
def test_names_that_are_none_are_refused(name):
    assert len(refusal(name)) < 300


def test_a_download_that_was_cut_off_is_taken_up_again(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub import constants

    whole = GOLDEN / "tiny-block-diffusion"
    cached = tmp_path / "cached"
    cached.mkdir()
    shutil.copy(whole / "config.json", cached)
    asked = []

    def snapshot_download(hub_id, local_files_only=False, **options):
        asked.append(local_files_only)
        return str(cached if local_files_only else whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: FakeHub(["config.json", "model.safetensors"]))
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: type("Hub", (), {"head": lambda *a, **k: None}))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert nb.load("someone/some-model").parameters > 0
    assert asked == [True, False]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("someone/some-model")
