"""Models of the hub: from the local cache, or downloaded, and one sentence where that fails."""

import shutil
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import nbdiff_engine as nb
from nbdiff_engine.model.hub_checkpoints import HubName
from tests.conftest import GOLDEN
from tests.engine.model.refusals import refusal

WHOLE = GOLDEN / "tiny-block-diffusion"


class FakeHub:
    """A hub that has one model of these files. asked: how the client was called."""

    def __init__(self, monkeypatch, files, cached=None, error=None):
        self.files, self.cached, self.error, self.asked = files, cached, error, []
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.download)
        monkeypatch.setattr(
            huggingface_hub.utils, "get_session", lambda: SimpleNamespace(head=lambda *args, **kwargs: None)
        )

    def list_repo_files(self, hub_id, revision=None):
        if self.error is not None:
            raise self.error("no", response=httpx.Response(403, request=httpx.Request("GET", "http://hub.test")))
        return self.files

    def snapshot(self, hub_id, revision=None, local_files_only=False, **patterns):
        if local_files_only and self.cached is None:
            raise LocalEntryNotFoundError("not here")
        self.asked.append((revision, local_files_only))
        kept = huggingface_hub.utils.filter_repo_objects(self.files, **patterns)
        self.fetched = sorted(kept)
        return str(self.cached if local_files_only else WHOLE)

    def download(self, hub_id, file, revision=None):
        self.asked.append((file, revision))
        raise OSError("not in this test")


def test_a_hub_id_offline_is_answered_at_once(connections):
    assert "HF_HUB_OFFLINE is set" in refusal("someone/some-model")
    assert connections == []


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch, connections):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refusal("someone/some-model")
    assert len(connections) == 1


def test_a_download_that_was_cut_off_is_taken_up_again(tmp_path, monkeypatch):
    shutil.copy(WHOLE / "config.json", tmp_path)
    hub = FakeHub(monkeypatch, ["config.json", "model.safetensors"], cached=tmp_path)
    assert nb.load("someone/some-model").parameters > 0
    assert hub.asked == [(None, True), (None, False)]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("someone/some-model")


def test_weights_that_are_there_twice_are_fetched_once(monkeypatch):
    wanted = ["config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    others = ["consolidated.safetensors", "consolidated.safetensors.index.json", "original/params.json", "README.md"]
    hub = FakeHub(monkeypatch, [*wanted, *others])
    nb.describe("someone/some-model")
    assert hub.fetched == sorted(wanted)


def test_a_revision_is_asked_for(monkeypatch):
    hub = FakeHub(monkeypatch, ["model.safetensors"])
    nb.describe("someone/some-model@refs/pr/3")
    assert hub.asked == [("refs/pr/3", False)]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GatedRepoError, "is gated: accept its licence at"),
        (RepositoryNotFoundError, "no public model of that name"),
        (RevisionNotFoundError, "has no revision 'v2'"),
    ],
)
def test_what_the_hub_refuses_is_said(monkeypatch, error, sentence):
    FakeHub(monkeypatch, [], error=error)
    assert sentence in refusal("someone/some-model@v2")


def test_a_repository_of_gguf_files(monkeypatch):
    hub = FakeHub(monkeypatch, ["a.Q4_0.gguf", "a.Q8_0.gguf", "big-00001-of-00002.gguf", "README.md"])
    said = refusal("someone/some-gguf")
    assert "has 2 GGUF files; name one of them: someone/some-gguf/a.Q4_0.gguf, someone/some-gguf/a.Q8_0.gguf." in said
    refusal("someone/some-gguf/a.Q8_0.gguf@main")
    assert hub.asked == [("a.Q8_0.gguf", "main")]


def test_names_of_the_hub():
    assert HubName.of("a/b") == HubName("a/b", None, None)
    assert HubName.of("a/b@v1.0") == HubName("a/b", None, "v1.0")
    assert HubName.of("a/b/c/d.gguf@x/y") == HubName("a/b", "c/d.gguf", "x/y")
    for text in ("a", "a/b/c", "../a/b.gguf", "a/b/../c.gguf", "a/b@", "/a/b"):
        assert HubName.of(text) is None, text
    assert str(HubName.of("a/b/c.gguf@v1")) == "a/b/c.gguf@v1"
