"""Checkpoints: an interrupted save leaves no incomplete checkpoint."""

import errno
import os
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from training.errors import RunError
from training.run import checkpointing
from training.run.checkpointing import (
    OPTIMIZER_FILE,
    CheckpointStore,
    is_complete,
    load_optimizer,
    optimizer_state,
    publish,
    sweep,
)
from training.run.manifest import MANIFEST
from training.run.shards import write_tensors


def writer(text: str = "weights"):
    def write(folder):
        (folder / "model.bin").write_text(text)
        (folder / "part").mkdir()
        (folder / "part" / "state.json").write_text("{}")

    return write


def test_a_published_folder_is_complete(tmp_path):
    publish(tmp_path / "final", writer())
    assert is_complete(tmp_path / "final")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["final"]


def test_publishing_again_replaces_the_folder(tmp_path):
    publish(tmp_path / "final", writer("old"))
    publish(tmp_path / "final", writer("new"))
    assert (tmp_path / "final" / "model.bin").read_text() == "new"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["final"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_every_file_has_the_mode_of_the_umask(tmp_path, umask):
    def write(folder):
        writer()(folder)
        save_file({"a": torch.ones(1)}, folder / "part" / "model.safetensors")  # written as 0600

    before = os.umask(umask)
    try:
        publish(tmp_path / "final", write)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "final").rglob("*") if path.is_file()}
    assert modes == dict.fromkeys(("model.bin", "state.json", "model.safetensors", MANIFEST), 0o666 & ~umask)


def test_a_link_in_place_of_the_folder_is_replaced_and_its_target_stays(tmp_path):
    publish(tmp_path / "elsewhere", writer("old"))
    (tmp_path / "final").symlink_to(tmp_path / "elsewhere")
    for text in ("new", "newer"):
        publish(tmp_path / "final", writer(text))
        assert (tmp_path / "final" / "model.bin").read_text() == text
    assert (tmp_path / "elsewhere" / "model.bin").read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["elsewhere", "final"]


@pytest.mark.parametrize("damage", ["shorter", "other", "gone", "no manifest", "half a manifest"])
def test_a_damaged_checkpoint_is_ignored(tmp_path, damage):
    store = CheckpointStore(tmp_path, keep=3)
    store.save(1, writer())
    store.save(2, writer())
    newest = tmp_path / "step-00000002"
    match damage:
        case "shorter":
            (newest / "model.bin").write_text("weigh")
        case "other":
            (newest / "model.bin").write_text("wEights")
        case "gone":
            (newest / "part" / "state.json").unlink()
        case "no manifest":
            (newest / MANIFEST).unlink()
        case "half a manifest":
            (newest / MANIFEST).write_text((newest / MANIFEST).read_text()[:40])
    assert store.newest().step == 1


def test_only_the_newest_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        store.save(step, writer())
    assert [each.step for each in store.all()] == [3, 4]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_the_last_checkpoint_is_kept_and_named(tmp_path, code):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, writer())

    def full(folder):
        (folder / "model.bin").write_text("half of it")
        raise OSError(code, os.strerror(code))

    with pytest.raises(RunError, match=r"step 2 .* the disk is full; the checkpoint of step 1 is kept"):
        store.save(2, full)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step-00000001"]
    assert store.newest().step == 1


@pytest.fixture
def one_megabyte(tmp_path):
    """A disk of 1 MB. The test is skipped if this process cannot mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_disk_without_space_the_last_checkpoint_is_kept(one_megabyte):
    store = CheckpointStore(one_megabyte, keep=2)
    small, large = torch.zeros(100_000), torch.zeros(200_000)
    store.save(1, lambda folder: save_file({"weights": small}, folder / "model.safetensors"))
    with pytest.raises(RunError, match=r"the disk is full; the checkpoint of step 1 is kept"):
        store.save(2, lambda folder: save_file({"weights": large}, folder / "model.safetensors"))
    assert [each.name for each in one_megabyte.iterdir()] == ["step-00000001"]
    assert store.newest().step == 1


def test_the_files_of_a_killed_save_are_no_checkpoint_and_are_removed(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=2)
    store.save(1, writer())
    monkeypatch.setattr(checkpointing.shutil, "rmtree", lambda *args, **kwargs: None)  # a kill removes nothing

    def killed(folder):
        (folder / "model.bin").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(2, killed)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    assert [each.step for each in store.all()] == [1]
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_optimiser_state_is_read_back_exactly(tmp_path, kind):
    def make():
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3, bias=False)
        cls = torch.optim.AdamW if kind == "adamw" else torch.optim.Muon
        return layer, {kind: cls(layer.parameters(), lr=0.1)}

    def step(layer, optimizers):
        layer(torch.ones(2, 4)).square().sum().backward()
        for each in optimizers.values():
            each.step()
            each.zero_grad()

    layer, optimizers = make()
    step(layer, optimizers)
    write_tensors(tmp_path / OPTIMIZER_FILE, optimizer_state(optimizers, {id(layer.weight): "weight"}))
    other, others = make()
    with torch.no_grad():
        other.weight.copy_(layer.weight)
    load_optimizer(tmp_path, others, {"weight": other.weight})
    for _ in range(3):
        step(layer, optimizers)
        step(other, others)
    assert torch.equal(layer.weight, other.weight)
