"""A model that is loaded while the page is open: who asks for it waits, and its failure is told in one sentence."""

import threading

import pytest

from nbdiff_engine import CheckpointError, SettingError, load
from playground.options import ServerOptions
from playground.server import loaded_models
from playground.server.coming_model import ComingModel, can_be_loaded
from playground.server.loaded_models import LoadedModels, first_models


def test_a_request_for_a_coming_model_waits_until_it_is_loaded() -> None:
    coming = ComingModel("later")
    loaded = LoadedModels(ServerOptions(), coming)
    loaded.add(load("nano"), "nano", "bundled")
    found: list[str] = []
    request = threading.Thread(target=lambda: found.append(loaded.get("later").name))
    request.start()
    assert loaded.get("nano").name == "nano"  # other models are there meanwhile
    assert "later is being loaded" in coming.state()["sentence"]
    warmed: list[str] = []

    def read(name: str) -> None:
        model = load("nano")
        model.name = name
        loaded.add(model, name, "bundled")

    coming.load(read, warmed.append)
    request.join(30)
    assert (found, warmed, coming.state()) == (["later"], ["later"], None)


def test_a_first_answer_is_told_too() -> None:
    ticks = iter((10.0, 14.0))
    coming = ComingModel("later", clock=lambda: next(ticks))
    told = []
    coming.load(lambda name: None, lambda name: told.append(coming.state()["sentence"]))
    assert told[0].startswith("later decodes a first answer, 4 s.")


def test_a_model_that_cannot_be_loaded_is_refused_in_one_sentence() -> None:
    def fails(name: str) -> None:
        raise CheckpointError("the file is damaged.")

    coming = ComingModel("later")
    coming.load(fails, lambda name: None)
    assert coming.state()["problem"] == "later could not be loaded: the file is damaged. Choose another model."
    with pytest.raises(SettingError, match="later could not be loaded: the file is damaged"):
        LoadedModels(ServerOptions(), coming).get("later")


def test_a_request_does_not_wait_for_ever() -> None:
    with pytest.raises(SettingError, match="still being loaded; try again"):
        ComingModel("later").wait(0.01)


def test_only_a_server_without_a_named_model_has_a_coming_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_models, "can_be_loaded", lambda: True)
    assert first_models(ServerOptions(model="nano")).coming is None
    assert first_models(ServerOptions(max_models=1)).coming is None
    loaded = first_models(ServerOptions(max_models=2))
    assert (loaded.coming.name, loaded.names()) == ("smollm2-drafts", ["nano"])
    monkeypatch.setattr(loaded_models, "can_be_loaded", lambda: False)
    loaded = first_models(ServerOptions())
    assert (loaded.coming, loaded.names()) == (None, ["nano", "nano-ar"])


def test_an_adapter_without_its_base_cannot_be_loaded() -> None:
    assert not can_be_loaded("nosuch-drafts")
    assert not can_be_loaded("nano")
