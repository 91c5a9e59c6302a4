"""Tensors in the shards of several processes, read by any number of them."""

import pytest
import torch

from training.errors import RunError
from training.run.shards import OPTIMIZER, WEIGHTS, StoredTensors, is_sharded, own_rows, write_shard, write_tensors


def test_the_rows_of_all_shards_in_order_are_the_tensor(tmp_path):
    whole = torch.arange(14.0).view(7, 2)
    for process, rows in enumerate(torch.chunk(whole, 3)):
        state = {"adamw/w/exp_avg": rows + 100, "adamw/w/step": torch.tensor(5.0)}
        write_shard(tmp_path, {"w": rows}, state, process, 3)
    assert is_sharded(tmp_path)
    stored = StoredTensors(tmp_path, "model.safetensors", WEIGHTS)
    assert stored.names() == ["w"]
    assert torch.equal(stored.rows("w"), whole)
    assert torch.equal(stored.rows("w", 2, 5), whole[2:5])
    assert stored.rows("w", 7, 7).shape == (0, 2)
    optimizer = StoredTensors(tmp_path, "optimizer.safetensors", OPTIMIZER)
    assert torch.equal(optimizer.like("adamw/w/exp_avg", torch.zeros(7, 2)), whole + 100)
    assert optimizer.like("adamw/w/step", torch.zeros(7, 2)) == 5


def test_files_of_whole_tensors_are_read_with_their_parts(tmp_path):
    write_tensors(tmp_path / "model-00001-of-00002.safetensors", {"a": torch.ones(3)})
    write_tensors(tmp_path / "model-00002-of-00002.safetensors", {"b": torch.zeros(2, 2)})
    target = {"a": torch.empty(3), "b": torch.empty(2, 2)}
    StoredTensors(tmp_path, "model.safetensors", WEIGHTS).fill(target)
    assert torch.equal(target["a"], torch.ones(3))
    assert torch.equal(target["b"], torch.zeros(2, 2))
    with pytest.raises(RunError, match="lacks c and 0 more tensors"):
        StoredTensors(tmp_path, "model.safetensors", WEIGHTS).fill({"c": torch.empty(1)})


def test_one_process_has_all_rows():
    assert own_rows(torch.zeros(5, 2)) == (0, 5)
