"""The KV cache alone: which positions a forward attends to, and which tokens are kept."""

import pytest
import torch

from nbdiff_engine.model.kv_cache import SlotCache
from tests.tiny import tiny_model


@pytest.fixture
def cache() -> SlotCache:
    """An empty cache of two rows."""
    return SlotCache(tiny_model("llama").network.config, 2, 16, torch.device("cpu"))


def attended(cache, starts: list[int], width: int) -> list[list[int]]:
    """Positions of the keys that each row attends to in a forward; nothing is written."""
    position, present = cache.prepare(starts, width)
    position, present = position.expand(len(starts), -1), present.expand(len(starts), -1)
    return [sorted(position[row][present[row]].tolist()) for row in range(len(starts))]


def test_a_forward_attends_to_committed_tokens_and_itself(cache):
    assert attended(cache, [0, 0], 3) == [[0, 1, 2]] * 2
    cache.keep([3, 2])
    assert cache.lengths == [3, 2]
    assert attended(cache, [3, 2], 2) == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]


def test_no_later_forward_attends_to_tokens_that_were_not_kept(cache):
    cache.prepare([0, 0], 4)
    cache.keep([4, 4])
    cache.prepare([4, 4], 3)
    cache.keep([0, 0])
    assert cache.lengths == [4, 4]
    assert attended(cache, [4, 4], 1) == [[0, 1, 2, 3, 4]] * 2


def test_a_start_before_the_end_is_a_rollback(cache):
    cache.prepare([0, 0], 6)
    cache.keep([6, 6])
    assert attended(cache, [2, 6], 1) == [[0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]
    assert cache.lengths == [2, 6]


def test_selected_rows_keep_their_lengths(cache):
    cache.prepare([0, 0], 4)
    cache.keep([4, 2])
    cache.select([1])
    assert cache.lengths == [2]
    assert attended(cache, [2], 1) == [[0, 1, 2]]


def test_the_cache_is_aligned_if_all_rows_start_at_one_position(cache):
    cache.prepare([0, 0], 4)
    assert cache.aligned
    cache.keep([4, 2])
    cache.prepare([4, 2], 1)
    assert not cache.aligned
