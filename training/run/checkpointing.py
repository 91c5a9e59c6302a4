"""Checkpoints that a crash cannot damage: files are written to a temporary folder, synced, and the folder is renamed.

A folder named `step-00000100` is therefore complete. A killed save leaves only a folder with a temporary name, which
the next run removes. Nothing is pickled: tensors are in safetensors, the rest in JSON.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.errors import RunError
from training.run.manifest import is_complete, write_manifest
from training.run.shards import OPTIMIZER, StoredTensors

OPTIMIZER_FILE = "optimizer.safetensors"
_NAME = re.compile(r"step-(\d{8})")
_UNFINISHED = ".unfinished"
RETIRED = ".retired"  # the end of the name of an older folder, from the moment when it is replaced
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    step: int  # steps done


class CheckpointStore:
    """The checkpoints of one run. Only the newest `keep` are kept, and that of the step `kept_step`."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self.keep = keep
        self.kept_step: int | None = None

    def save(self, step: int, write: Callable[[Path], None]) -> Checkpoint:
        """Call `write` with a temporary folder, and publish that folder as the checkpoint of `step`.

        Raises RunError if the disk is full or cannot be written; earlier checkpoints do not change then.
        """
        target = self.folder / f"step-{step:08d}"
        try:
            publish(target, write)
        except OSError as error:
            last = self.newest()
            kept = f"the checkpoint of step {last.step} is kept" if last else "there is no earlier checkpoint"
            reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
            raise RunError(
                f"The checkpoint of step {step} cannot be written to {self.folder}: {reason}; {kept}."
            ) from error
        saved = self.all()
        for old in saved[: -self.keep]:
            if old.step != self.kept_step:
                shutil.rmtree(old.folder, ignore_errors=True)
        return saved[-1]

    def drop_after(self, chosen: Checkpoint) -> None:
        """Remove the checkpoints newer than the one a run resumes from: `newest` skipped them as damaged."""
        for each in self.all():
            if each.step > chosen.step:
                shutil.rmtree(each.folder, ignore_errors=True)

    def unfinished(self, step: int) -> Path:
        """The folder that `save` gives to `write`, for other processes that write into it too."""
        return self.folder / f"step-{step:08d}{_UNFINISHED}"

    def all(self) -> list[Checkpoint]:
        """Every checkpoint that has its final name, oldest first."""
        found = []
        for path in self.folder.glob("step-*"):
            if match := _NAME.fullmatch(path.name):
                found.append(Checkpoint(path, int(match[1])))
        return sorted(found, key=lambda each: each.step)

    def of_step(self, step: int) -> Checkpoint | None:
        """The checkpoint of a step; None if there is none whose files match its manifest."""
        return next((each for each in self.all() if each.step == step and is_complete(each.folder)), None)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint whose files match its manifest; None if there is none."""
        return next((each for each in reversed(self.all()) if is_complete(each.folder)), None)


def publish(target: Path, write: Callable[[Path], None]) -> None:
    """Create the folder `target` with what `write` puts into it, complete or not at all. An older one is replaced.

    Its files get the mode that the umask gives: safetensors writes files that only their owner can read. Raises OSError
    if the file system does; the unfinished folder is removed then.
    """
    unfinished = target.with_name(target.name + _UNFINISHED)
    _remove(unfinished)
    try:
        unfinished.mkdir(parents=True)
        write(unfinished)
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        manifest = write_manifest(unfinished, files)
        _share_mode(manifest, files)
        for path in [*files, manifest]:
            _sync(path)
        _sync(unfinished)
        if os.path.lexists(target):
            retired = target.with_name(target.name + RETIRED)
            _remove(retired)
            target.rename(retired)
            unfinished.rename(target)
            _remove(retired)
        else:
            unfinished.rename(target)
        _sync(target.parent)
    except BaseException as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        # safetensors and tokenizers raise their own exceptions for an error of the file system.
        code = None if isinstance(error, OSError) else _OS_ERROR.search(str(error))
        if code:
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
        raise


def _share_mode(new: Path, files: Iterable[Path]) -> None:
    """Give files the mode of one that was just created, which is what the umask gives. A file system without modes is
    left as it is."""
    mode = stat.S_IMODE(new.stat().st_mode)
    with suppress(OSError):
        for path in files:
            path.chmod(mode)


def sweep(folder: Path) -> None:
    """Remove the temporary folders that interrupted saves left in a run's folder."""
    for pattern in (f"*{_UNFINISHED}", f"*{RETIRED}"):
        for path in folder.rglob(pattern):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a folder, or a file or a link, whose target stays. What cannot be removed is left."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- optimiser state as safetensors ----------------------------------------------------------------------


def optimizer_state(optimizers: Mapping[str, torch.optim.Optimizer], names: Mapping[int, str]) -> dict[str, Tensor]:
    """The state of optimisers, to be stored. names: `id()` of a parameter to its name.

    The key of a tensor is `optimizer/parameter/entry`. A number is a tensor without dimensions.
    """
    tensors: dict[str, Tensor] = {}
    for label, optimizer in optimizers.items():
        for parameter, state in optimizer.state.items():
            for entry, value in state.items():
                tensor = value if isinstance(value, Tensor) else torch.tensor(value)
                tensors[f"{label}/{names[id(parameter)]}/{entry}"] = tensor.detach()
    return tensors


def load_optimizer(
    folder: Path, optimizers: Mapping[str, torch.optim.Optimizer], parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Read the stored state to each parameter's device. A fused AdamW needs its step counts there too."""
    stored = StoredTensors(folder, OPTIMIZER_FILE, OPTIMIZER)
    for key in stored.names():
        label, rest = key.split("/", 1)
        name, entry = rest.rsplit("/", 1)
        parameter = parameters[name]
        optimizers[label].state[parameter][entry] = stored.like(key, parameter)
