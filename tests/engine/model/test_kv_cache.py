"""The KV cache alone: which positions a forward attends to, and which tokens are kept."""

import pytest
import torch

from nbdiff_engine.model.kv_cache import SlotCache
from tests.tiny import prompt_ids, tiny_model

BOTH = range(2)  # rows


@pytest.fixture
def cache() -> SlotCache:
    """An empty cache of two rows."""
    return SlotCache(tiny_model("llama").network.config, 2, 16, torch.device("cpu"))


def attended(cache, starts: list[int], width: int) -> list[list[int]]:
    """Positions of the keys that each row attends to in a forward; nothing is written."""
    position, present = cache.prepare(starts, width, range(len(starts)))
    position, present = position.expand(len(starts), -1), present.expand(len(starts), -1)
    return [sorted(position[row][present[row]].tolist()) for row in range(len(starts))]


def test_a_forward_attends_to_committed_tokens_and_itself(cache):
    assert attended(cache, [0, 0], 3) == [[0, 1, 2]] * 2
    cache.keep([3, 2], BOTH)
    assert cache.lengths == [3, 2]
    assert attended(cache, [3, 2], 2) == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]


def test_no_later_forward_attends_to_tokens_that_were_not_kept(cache):
    cache.prepare([0, 0], 4, BOTH)
    cache.keep([4, 4], BOTH)
    cache.prepare([4, 4], 3, BOTH)
    cache.keep([0, 0], BOTH)
    assert cache.lengths == [4, 4]
    assert attended(cache, [4, 4], 1) == [[0, 1, 2, 3, 4]] * 2


def test_a_start_before_the_end_is_a_rollback(cache):
    cache.prepare([0, 0], 6, BOTH)
    cache.keep([6, 6], BOTH)
    assert attended(cache, [2, 6], 1) == [[0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]
    assert cache.lengths == [2, 6]


def test_selected_rows_keep_their_lengths(cache):
    cache.prepare([0, 0], 4, BOTH)
    cache.keep([4, 2], BOTH)
    cache.select([1])
    assert cache.lengths == [2]
    assert attended(cache, [2], 1) == [[0, 1, 2]]


def test_the_cache_is_aligned_if_all_rows_start_at_one_position(cache):
    cache.prepare([0, 0], 4, BOTH)
    assert cache.aligned
    cache.keep([4, 2], BOTH)
    cache.prepare([4, 2], 1, BOTH)
    assert not cache.aligned


def test_a_forward_may_be_of_a_part_of_the_rows(cache):
    cache.prepare([0, 0], 4, BOTH)
    cache.keep([4, 2], BOTH)
    position, present = cache.prepare([2], 3, range(1, 2))
    assert position[present].tolist() == [0, 1, 2, 3, 4]
    cache.keep([3], range(1, 2))
    assert cache.lengths == [4, 5]


@torch.inference_mode()
def test_a_token_can_be_moved_to_the_end_of_what_is_kept():
    """Of two rows of different lengths, each keeps another token of the forward than the first ones."""
    model = tiny_model("llama")
    session = model.open(2, 32)
    session.prefill([prompt_ids(4), prompt_ids(7)])
    session.commit([[5, 6, 7], [8, 9, 10]])
    layer = session.cache.network_cache.layers[1]
    wanted = [layer.keys[0, :, 6].clone(), layer.values[1, :, 9].clone()]
    session.cache.lengths = [5, 9]
    session.cache.move([0, 1], [6, 9], [5, 8])
    assert torch.equal(layer.keys[0, :, 5], wanted[0])
    assert torch.equal(layer.values[1, :, 8], wanted[1])
    assert session.lengths == [6, 9]


def test_the_buffer_grows_in_steps_and_keeps_its_content():
    model = tiny_model("llama", max_position_embeddings=2048)
    session = model.open(1, 2048)
    prompt = prompt_ids(1200)
    grown = session.prefill([prompt])  # chunks of 512 tokens: the buffer grows twice
    assert session.cache.network_cache.layers[0].keys.shape[2] < 2048
    whole = model.open(1, 2048)
    whole.cache.capacity = 2048
    assert torch.equal(grown, whole.prefill([prompt]))
    assert session.cache.capacity == 1536
    assert whole.cache.capacity == 2048
