"""The plan of attention over documents: each allowed pair is in one piece, and mask size is linear in the length."""

import pytest
import torch

from nbdiff_engine.model.attention import dense_mask
from tests.tiny import MASK
from tests.training.packs import packed, random_batch
from training.data.documents import Document
from training.objective.attention_plan import Piece, plan_of, present
from training.objective.noising import Noising, noise


@pytest.mark.parametrize("context", ["token_causal", "block_causal"])
def test_the_pieces_contain_each_allowed_pair_once_and_no_other(cut, context):
    for seed in range(20):
        batch = random_batch(seed, context)
        is_present = present(batch.tokens)
        plan = plan_of(batch.tokens, is_present, context)
        number = int(is_present.sum())
        count = torch.zeros(number, number, dtype=torch.long)
        for piece in map(Piece._make, plan.pieces.tolist()):
            g, q, k = piece[:3]
            queries = plan.index[piece.query_at :][: g * q].view(g, q)
            keys = plan.index[piece.key_at :][: g * k].view(g, k)
            mask = plan.masks[piece.mask_at :][: g * q * k].view(g, q, k)
            for part in range(g):
                for row in (queries[part] >= 0).nonzero()[:, 0].tolist():
                    seen = keys[part][mask[part, row] == 0]
                    assert (seen >= 0).all()
                    count[queries[part, row], seen] += 1
                    count[queries[part, row], piece.before : piece.before_end] += 1
        place = is_present.flatten().nonzero()[:, 0]
        expected = torch.block_diag(*dense_mask(batch.tokens, batch.tokens, context)[:, 0])[place][:, place]
        assert torch.equal(count, expected.long())


def test_mask_size_is_linear_in_the_length_of_a_document():
    def size(length: int) -> int:
        rows = packed(Document(tuple([5] * length), None), length=length)
        batch = noise(rows, Noising(32, MASK), torch.Generator().manual_seed(0))
        return plan_of(batch.tokens, present(batch.tokens), "token_causal").masks.numel()

    assert size(4096) < 2.1 * size(2048)
