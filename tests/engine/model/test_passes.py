"""Which rows share a forward, and how a prompt is divided into passes."""

import pytest

from nbdiff_engine.model.passes import PREFILL_CHUNK, SHARED_WIDTH, Pass, shared_forwards


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ([1, 1, 32, SHARED_WIDTH], [range(4)]),  # narrow passes share a forward, whatever the padding
        ([16, 16, 512], [range(2), range(2, 3)]),  # a row that decodes is not padded to a prompt's width
        ([500, 512, 512], [range(3)]),  # prompts of similar length share a forward
        ([100, 512], [range(1), range(1, 2)]),
        ([0, 3, 0, 4, 5, 0], [range(1, 2), range(3, 5)]),  # a row without tokens takes part in no forward
    ],
)
def test_rows_share_a_forward_where_padding_is_cheap(widths, expected):
    assert shared_forwards(widths) == expected


@pytest.mark.parametrize(("length", "block_size"), [(1, 1), (PREFILL_CHUNK, 1), (1300, 1), (1300, 24)])
def test_a_prefill_reads_every_token_once_and_whole_blocks(length, block_size):
    passes = Pass.prefill(range(length), block_size)
    assert [token for each in passes for token in each.tokens] == list(range(length))
    assert all(each.start % block_size == 0 for each in passes)
    assert [len(each.wanted) for each in passes] == [0] * (len(passes) - 1) + [1]
