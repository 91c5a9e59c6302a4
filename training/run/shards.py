"""Tensors that FSDP2 splits over processes by rows (the first dimension): gathered, written and read.

A sharded checkpoint has one file per process, `shards-00000-of-00008.safetensors`, with the rows of that process. The
rows of all files in order are the tensor, so any number of processes can read it, one included.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from training.errors import RunError

WEIGHTS, OPTIMIZER = "weights/", "optimizer/"  # the beginning of a tensor's name in a file of shards
_PATTERN = "shards-*-of-*.safetensors"


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor. All processes must call it for a split one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """All rows of each tensor on the CPU, one tensor after another; empty in a process with `keep` false."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            found[name] = full.cpu().contiguous()
    return found


def write_shard(folder: Path, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], process: int, of: int):
    """Write this process's rows into a folder that all processes see."""
    tensors = {WEIGHTS + name: each for name, each in weights.items()}
    tensors |= {OPTIMIZER + name: each for name, each in optimizer.items()}
    local = {name: each.to_local() if isinstance(each, DTensor) else each for name, each in tensors.items()}
    write_tensors(folder / f"shards-{process:05d}-of-{of:05d}.safetensors", local)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Raises OSError, or what safetensors raises for it."""
    save_file({name: each.detach().contiguous().cpu() for name, each in tensors.items()}, path)


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint has its tensors in files of shards."""
    return next(folder.glob(_PATTERN), None) is not None


class StoredTensors:
    """The tensors of a checkpoint, read by rows: of its shards if it has them, else of files of whole tensors."""

    def __init__(self, folder: Path, name: str, prefix: str):
        """name: of the file of whole tensors, whose parts are read too. prefix: WEIGHTS or OPTIMIZER, for shards."""
        sharded = is_sharded(folder)
        self._prefix = prefix if sharded else ""
        self._folder = folder
        paths = sorted(folder.glob(_PATTERN if sharded else name.replace(".safetensors", "*.safetensors")))
        self._files = [safe_open(path, framework="pt") for path in paths]
        self._holders: dict[str, list] = {}
        for file in self._files:
            for key in file.keys():  # noqa: SIM118
                if key.startswith(self._prefix):
                    self._holders.setdefault(key.removeprefix(self._prefix), []).append(file)

    def names(self) -> list[str]:
        return list(self._holders)

    def fill(self, parameters: Mapping[str, Tensor]) -> None:
        """Copy the tensors into the parameters with the same names, of each the rows that this process has.

        Raises RunError if one is missing.
        """
        missing = sorted(set(parameters) - set(self._holders))
        if missing:
            raise RunError(f"The checkpoint {self._folder} lacks {missing[0]} and {len(missing) - 1} more tensors.")
        with torch.no_grad():
            for name, parameter in parameters.items():
                local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                local.copy_(self.rows(name, *own_rows(parameter)))

    def like(self, name: str, parameter: Tensor) -> Tensor:
        """A tensor, on the parameter's device; if it has the parameter's shape and that is split, split as that."""
        if not isinstance(parameter, DTensor) or not self._holders[name][0].get_slice(self._prefix + name).get_shape():
            return self.rows(name).to(parameter.device)
        local = self.rows(name, *own_rows(parameter)).to(parameter.device)
        return DTensor.from_local(
            local,
            parameter.device_mesh,
            parameter.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows of a tensor; all of it for a number."""
        parts, at = [], 0
        for file in self._holders[name]:
            part = file.get_slice(self._prefix + name)
            if not part.get_shape():
                return file.get_tensor(self._prefix + name)
            count = part.get_shape()[0]
            first, last = max(start - at, 0), count if stop is None else min(stop - at, count)
            if first < last:
                parts.append(part[first:last])
            at += count
        if not parts:
            return file.get_tensor(self._prefix + name)[:0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def own_rows(parameter: Tensor) -> tuple[int, int]:
    """The rows [start, stop) of a parameter that this process has: equal parts, as torch.chunk cuts them."""
    rows = parameter.shape[0] if parameter.ndim else 1
    if not isinstance(parameter, DTensor):
        return 0, rows
    size = -(-rows // parameter.device_mesh.size())
    start = min(parameter.device_mesh.get_local_rank() * size, rows)
    return start, min(start + size, rows)
