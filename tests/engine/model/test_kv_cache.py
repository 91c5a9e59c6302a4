"""The KV cache by itself: which positions a forward sees, and what is kept of it."""

import pytest
import torch

from nbdiff_engine.model.kv_cache import SlotCache
from tests.tiny import tiny_model


@pytest.fixture
def cache() -> SlotCache:
    """An empty cache of two rows."""
    return SlotCache(tiny_model("llama").network.config, 2, 16, torch.device("cpu"))


def seen(cache, starts: list[int], width: int) -> list[list[int]]:
    """Positions at which each row's keys are, in a forward; nothing is written."""
    position, present = cache.prepare(starts, width)
    position, present = position.expand(len(starts), -1), present.expand(len(starts), -1)
    return [sorted(position[row][present[row]].tolist()) for row in range(len(starts))]


def test_a_forward_sees_what_is_committed_and_itself(cache):
    assert seen(cache, [0, 0], 3) == [[0, 1, 2]] * 2
    cache.keep([3, 2])
    assert cache.lengths == [3, 2]
    assert seen(cache, [3, 2], 2) == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]


def test_what_is_not_kept_is_not_seen_again(cache):
    cache.prepare([0, 0], 4)
    cache.keep([4, 4])
    cache.prepare([4, 4], 3)
    cache.keep([0, 0])
    assert cache.lengths == [4, 4]
    assert seen(cache, [4, 4], 1) == [[0, 1, 2, 3, 4]] * 2


def test_a_start_before_the_end_is_a_rollback(cache):
    cache.prepare([0, 0], 6)
    cache.keep([6, 6])
    assert seen(cache, [2, 6], 1) == [[0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]
    assert cache.lengths == [2, 6]


def test_selected_rows_keep_their_lengths(cache):
    cache.prepare([0, 0], 4)
    cache.keep([4, 2])
    cache.select([1])
    assert cache.lengths == [2]
    assert seen(cache, [2], 1) == [[0, 1, 2]]


def test_it_is_aligned_where_all_rows_start_at_the_same_place(cache):
    cache.prepare([0, 0], 4)
    assert cache.aligned
    cache.keep([4, 2])
    cache.prepare([4, 2], 1)
    assert not cache.aligned
