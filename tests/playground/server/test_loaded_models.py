"""The shelf: what a visitor may load, and what happens to models in use."""

import shutil
from pathlib import Path

import pytest

from nbdiff_engine import NBDiffError, SettingError, bundled_models
from playground.options import Options, StartError
from playground.server.loaded_models import Shelf, first_models


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of checkpoints that visitors may load from."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(bundled_models()["nano"], folder / "mine")
    (folder / "empty").mkdir()
    return folder


def shelf_of(*roots: Path, **limits: object) -> Shelf:
    return first_models(Options(model_roots=roots, **limits))


def test_a_bundled_model_has_the_other_bundled_ones_beside_it() -> None:
    shelf = first_models(Options(model="nano"))
    assert shelf.names() == ["nano", "nano-ar"]
    first, second = shelf.rows()
    assert (first.block_size, second.block_size) == (32, None)
    assert first.memory >= 2 * first.parameters > 9_000_000
    assert first.origin == "bundled"
    assert "blocks of 32" in first.about_blocks


def test_a_folder_inside_a_root_is_loaded_by_its_relative_or_absolute_name(root: Path) -> None:
    shelf = shelf_of(root)
    assert shelf.load("mine") == "mine"
    assert shelf.load(str(root / "mine")) == "mine"
    assert shelf.names() == ["nano", "nano-ar", "mine"]
    assert shelf.get("mine").name == "mine"
    assert shelf.rows()[-1].origin == str(root / "mine")


@pytest.mark.parametrize(
    "asked",
    [
        "../outside",
        "/etc",
        "~",
        "",
        "  ",
        ".",
        "nosuch",
        "a\nb",
        "x" * 5000,
        None,
        7,
        "someone/some-model",
        "$(touch x)",
    ],
)
def test_anything_else_is_refused_in_a_sentence(root: Path, asked: object) -> None:
    shutil.copytree(bundled_models()["nano"], root.parent / "outside")
    shelf = shelf_of(root)
    with pytest.raises(NBDiffError) as caught:
        shelf.load(asked)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert shelf.names() == ["nano", "nano-ar"]


def test_a_link_out_of_a_root_leads_nowhere(root: Path) -> None:
    shutil.copytree(bundled_models()["nano"], root.parent / "outside")
    (root / "sly").symlink_to(root.parent / "outside")
    with pytest.raises(SettingError, match="no folder inside an allowed root"):
        shelf_of(root).load("sly")


def test_the_hub_is_off_until_it_is_switched_on() -> None:
    with pytest.raises(SettingError, match="start it with --hub"):
        shelf_of().load("someone/some-model")
    with pytest.raises(NBDiffError, match="someone/no-such-model"):
        shelf_of(hub=True).load("someone/no-such-model")


def test_as_many_models_as_the_operator_allows(root: Path) -> None:
    shelf = shelf_of(root, max_models=2)
    with pytest.raises(SettingError, match="the most that this server holds; unload one first"):
        shelf.load("mine")
    shelf.unload("nano-ar")
    assert shelf.load("mine") == "mine"


def test_a_model_beyond_the_limit_is_not_loaded(root: Path) -> None:
    with pytest.raises(SettingError, match="loads models of at most"):
        shelf_of(root, max_model_gb=0.001).load("mine")


def test_a_quantised_model_stands_beside_the_stored_one() -> None:
    shelf = shelf_of()
    assert shelf.load("nano", "8bit") == "nano (8bit)"
    assert shelf.load("nano", "8bit") == "nano (8bit)"
    assert shelf.rows()[-1].dtype == "8 bit"
    with pytest.raises(SettingError, match="choose 8bit, 4bit or none"):
        shelf.load("nano", "2bit")


def test_a_model_in_use_stays_and_so_does_the_last_one() -> None:
    shelf = shelf_of()
    with shelf.using("nano"), pytest.raises(SettingError, match="nano is decoding"):
        shelf.unload("nano")
    shelf.unload("nano")
    with pytest.raises(SettingError, match="the only model"):
        shelf.unload("nano-ar")
    with pytest.raises(SettingError, match="No model 'nano' is loaded; there are nano-ar"):
        shelf.get("nano")


def test_a_root_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="which is no folder"):
        Options(model_roots=(tmp_path / "nosuch",))
