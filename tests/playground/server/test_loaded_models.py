"""The loaded models: which models a visitor can load, and models in use."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nbdiff_engine import NBDiffError, SettingError, bundled_models, load
from playground.options import ServerOptions, StartError
from playground.server.loaded_models import LoadedModels, first_models


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of checkpoints that visitors may load from."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(bundled_models()["nano"], folder / "mine")
    (folder / "empty").mkdir()
    return folder


def loaded_with(*roots: Path, **limits: object) -> LoadedModels:
    return first_models(ServerOptions(model="nano", model_roots=roots, **limits))


def test_with_a_bundled_model_the_other_bundled_ones_are_loaded() -> None:
    loaded = first_models(ServerOptions(model="nano"))
    assert loaded.names() == ["nano", "nano-ar"]
    first, second = loaded.facts()
    assert (first.block_size, second.block_size) == (32, None)
    assert first.memory >= 2 * first.parameters > 9_000_000
    assert first.origin == "bundled"
    assert "blocks of 32" in first.about_blocks


def test_a_folder_inside_a_root_is_loaded_by_its_relative_or_absolute_name(root: Path) -> None:
    loaded = loaded_with(root)
    assert loaded.load("mine") == "mine"
    assert loaded.load(str(root / "mine")) == "mine"
    assert loaded.names() == ["nano", "nano-ar", "mine"]
    assert loaded.get("mine").name == "mine"
    assert loaded.facts()[-1].origin == str(root / "mine")


@pytest.mark.parametrize(
    "name",
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
def test_any_other_name_is_refused_in_one_sentence(root: Path, name: object) -> None:
    shutil.copytree(bundled_models()["nano"], root.parent / "outside")
    loaded = loaded_with(root)
    with pytest.raises(NBDiffError) as caught:
        loaded.load(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert loaded.names() == ["nano", "nano-ar"]


def test_a_link_to_a_folder_outside_the_root_is_refused(root: Path) -> None:
    shutil.copytree(bundled_models()["nano"], root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    with pytest.raises(SettingError, match="no folder inside an allowed root"):
        loaded_with(root).load("link")


def test_the_hub_is_off_until_it_is_switched_on() -> None:
    with pytest.raises(SettingError, match="allow that with --hub"):
        loaded_with().load("someone/some-model")
    with pytest.raises(NBDiffError, match="someone/no-such-model"):
        loaded_with(hub=True).load("someone/no-such-model")


def write_adapter(folder: Path, base: str) -> None:
    """A LoRA of zeros for one layer of nano."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "target_modules": ["layers.0.mlp.up_proj"], "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    nano = load("nano", fused=False).network.model.layers[0].mlp.up_proj
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    zeros = {f"{name}A.weight": np.zeros((1, nano.in_features), np.float32)}
    zeros |= {f"{name}B.weight": np.zeros((nano.out_features, 1), np.float32)}
    save_file(zeros, folder / "adapter_model.safetensors")


def test_an_adapter_is_loaded_if_its_base_may_be(root: Path, tmp_path: Path) -> None:
    write_adapter(root / "lora", base=str(root / "mine"))
    loaded = loaded_with(root)
    assert loaded.load("lora") == "lora"
    assert loaded.get("lora").parameters == loaded.get("nano").parameters
    shutil.copytree(bundled_models()["nano"], tmp_path / "secret")
    for number, base in enumerate((str(tmp_path / "secret"), "someone/some-model", "../secret")):
        write_adapter(root / f"other{number}", base=base)
        with pytest.raises(SettingError, match="is an adapter, and its base may not be loaded"):
            loaded.load(f"other{number}")


def test_a_gguf_file_inside_a_root_reaches_the_loader(root: Path) -> None:
    (root / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(NBDiffError, match=r"as a GGUF file|pip install gguf"):
        loaded_with(root).load("model.gguf")


def test_the_number_of_loaded_models_is_limited(root: Path) -> None:
    loaded = loaded_with(root, max_models=2)
    with pytest.raises(SettingError, match="the most that this server allows; unload one first"):
        loaded.load("mine")
    loaded.unload("nano-ar")
    assert loaded.load("mine") == "mine"


def test_a_model_above_the_size_limit_is_not_loaded(root: Path) -> None:
    with pytest.raises(SettingError, match="loads models of at most"):
        loaded_with(root, max_model_gb=0.001).load("mine")


def test_a_quantised_model_is_loaded_in_addition_to_the_stored_one() -> None:
    loaded = loaded_with()
    assert loaded.load("nano", "8bit") == "nano (8bit)"
    assert loaded.load("nano", "8bit") == "nano (8bit)"
    assert loaded.facts()[-1].dtype == "8 bit"
    with pytest.raises(SettingError, match="choose 8bit, 4bit or none"):
        loaded.load("nano", "2bit")


def test_a_model_in_use_and_the_last_model_cannot_be_unloaded() -> None:
    loaded = loaded_with()
    with loaded.using("nano"), pytest.raises(SettingError, match="nano is decoding"):
        loaded.unload("nano")
    loaded.unload("nano")
    with pytest.raises(SettingError, match="the only model"):
        loaded.unload("nano-ar")
    with pytest.raises(SettingError, match="No model 'nano' is loaded; there are nano-ar"):
        loaded.get("nano")


def test_a_root_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="which is no folder"):
        ServerOptions(model_roots=(tmp_path / "nosuch",))
