"""The models on this machine: which are listed, what they can do, and how they are shown as cards."""

import shutil
from pathlib import Path

import pytest

from nbdiff_engine import SettingError, bundled_models
from playground.model_cards import cards
from playground.options import ServerOptions
from playground.server import found_models
from playground.server.found_models import FoundModels
from playground.server.loaded_models import first_models
from tests.engine.model.test_outline import write_draft_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    shutil.copytree(bundled_models()["nano-ar"], folder / "deep" / "mine")
    (folder / ".hidden").mkdir()
    shutil.copytree(bundled_models()["nano-ar"], folder / ".hidden" / "not")
    write_draft_folder(folder / "drafts", "nano-ar")
    (folder / "q4.gguf").write_bytes(b"1234")
    (folder / "outside").symlink_to(tmp_path)
    shutil.copytree(bundled_models()["nano-ar"], tmp_path / "other")
    return folder.resolve()


def test_models_in_allowed_folders_are_listed_with_what_they_can_do(root: Path) -> None:
    found = FoundModels(ServerOptions(model_roots=(root,)), None)
    own = {each.name: each for each in found.models() if each.place.startswith("allowed folder")}
    assert {name: str(each.outline) for name, each in own.items()} == {
        "mine": "AR only",
        "drafts": "drafts for nano-ar",
        "q4.gguf": "AR only",
    }
    assert own["mine"].place == "allowed folder, in deep"
    itself = FoundModels(ServerOptions(model_roots=(root / "deep" / "mine",)), None).models()
    assert [each.place for each in itself if each.name == "mine"] == ["allowed folder"]
    assert [name for name, each in own.items() if each.can_be_base] == ["q4.gguf", "mine"]
    assert found.get(str(root / "drafts")) == own["drafts"]
    for wrong in ("../other", str(root / "outside" / "other"), None, 5):
        with pytest.raises(SettingError, match="There is no model"):
            found.get(wrong)


def test_caches_are_listed_only_for_the_person_at_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = {"owner/mine": bundled_models()["nano"]}
    monkeypatch.setattr(found_models, "cached_checkpoints", lambda: cached)

    def of_hub(**options: object) -> list[str]:
        return [each.id for each in FoundModels(ServerOptions(**options), None).models() if each.place == "hub cache"]

    assert of_hub() == ["owner/mine"]
    assert of_hub(host="0.0.0.0", login="a:b") == []
    assert of_hub(host="0.0.0.0", login="a:b", hub=True) == ["owner/mine"]


@pytest.mark.parametrize("here", [True, False])
def test_the_bundled_draft_adapter_is_listed_where_its_base_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    write_draft_folder(tmp_path / "smollm2", "smollm2")
    monkeypatch.setattr(found_models, "bundled_adapters", lambda: {"smollm2-drafts": tmp_path / "smollm2"})
    monkeypatch.setattr(found_models, "can_be_loaded", lambda name: here)
    listed = {each.id: str(each.outline) for each in FoundModels(ServerOptions(), None).models()}
    assert listed.get("smollm2-drafts") == ("drafts for smollm2" if here else None)


def test_a_card_shows_what_a_model_is_and_how_it_is_loaded(root: Path) -> None:
    options = ServerOptions(model_roots=(root,))
    loaded = first_models(options)
    name = loaded.load_known(root / "deep" / "mine", "mine", "allowed folder")
    shown = cards(FoundModels(options, None).models(), loaded.facts(), trains=True)
    by_name = {card.name: card for card in shown}
    assert [card.name for card in shown][:3] == ["nano", "nano-ar", "mine"]  # the loaded ones first
    assert by_name["nano"].kind == "blocks of 32"
    assert by_name["nano"].facts[0] == "bundled"
    assert by_name["mine"].loaded[0].name == name
    assert not by_name["mine"].can_load
    assert (by_name["drafts"].can_load, by_name["drafts"].can_adapt) == (True, False)
    assert all(not card.can_adapt for card in cards(FoundModels(options, None).models(), loaded.facts(), trains=False))
