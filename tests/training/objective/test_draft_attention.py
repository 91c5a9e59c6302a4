"""Who a noise row may attend to: the dense mask against the rule, and plans against the dense mask."""

import pytest
import torch

from nbdiff_engine.errors import SettingError
from nbdiff_engine.model.attention import PADDING
from tests.training.objective.drafting import draft_batch
from tests.training.packs import answer, packed
from training.data.documents import Document
from training.objective import draft_attention
from training.objective.attention_plan import Piece
from training.objective.draft_attention import CleanKeysValues, attend, noise_mask, noise_plan


def batch_of(seed=0, **options):
    turns = Document(answer(20, 30, seed=2).ids, ((4, 15), (20, 50)))
    rows = packed(answer(5, 20), answer(7, 17, seed=1), turns, answer(3, 9, seed=4), rows=2)
    return draft_batch(rows, 4, seed, groups=2, **options)


@pytest.mark.parametrize("causal", [False, True])
def test_a_noise_row_sees_its_documents_clean_tokens_up_to_the_anchor_and_its_own_group(causal):
    batch = batch_of()
    mask = noise_mask(batch, causal)[:, 0]
    clean = batch.packed.ids.shape[1]
    for row, query in (batch.document != PADDING).nonzero().tolist():
        document, anchor, position = (
            int(getattr(batch, name)[row, query]) for name in ("document", "anchor", "position")
        )
        for key in range(clean):
            own = int(batch.packed.document[row, key]) == document
            assert mask[row, query, key] == (own and int(batch.packed.position[row, key]) <= anchor)
        for key in range(mask.shape[2] - clean):
            same = int(batch.document[row, key]) == document and int(batch.anchor[row, key]) == anchor
            assert mask[row, query, clean + key] == (same and (not causal or int(batch.position[row, key]) <= position))
    padding = mask[batch.document == PADDING]
    assert (padding.sum(1) == 1).all()


@pytest.mark.parametrize("sizes", [(256, 128, 32), (8, 6, 4), (30, 6, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_a_plan_has_every_pair_of_the_dense_mask_once(sizes, causal, monkeypatch):
    for name, value in zip(("_SHORT", "_RUN", "_ROUND"), sizes, strict=True):
        monkeypatch.setattr(draft_attention, name, value)
    batch = batch_of(3)
    plan = noise_plan(batch, causal)
    clean, noise = batch.packed.document != PADDING, batch.document != PADDING
    total, rows = int(clean.sum()), int(noise.sum())
    seen = torch.zeros(rows, total + rows, dtype=torch.long)
    for piece in map(Piece._make, plan.pieces.tolist()):
        queries = plan.index[piece.query_at :][: piece.number * piece.queries].view(piece.number, -1)
        keys = plan.index[piece.key_at :][: piece.number * piece.keys].view(piece.number, -1)
        mask = plan.masks[piece.mask_at :][: piece.number * piece.queries * piece.keys]
        for g, q, k in (mask.view(piece.number, piece.queries, piece.keys) == 0).nonzero().tolist():
            if queries[g, q] >= 0:
                seen[queries[g, q], keys[g, k]] += 1
        for query in queries[queries >= 0].tolist():
            seen[query, piece.before : piece.before_end] += 1
    expected = torch.zeros_like(seen)
    dense, first_clean, first_noise = noise_mask(batch, causal)[:, 0], 0, 0
    for row in range(len(clean)):
        own = dense[row][noise[row]]
        width, height = int(clean[row].sum()), len(own)
        at = slice(first_noise, first_noise + height)
        expected[at, first_clean : first_clean + width] = own[:, : clean.shape[1]][:, clean[row]].long()
        expected[at, total + first_noise : total + first_noise + height] = own[:, clean.shape[1] :][
            :, noise[row]
        ].long()
        first_clean, first_noise = first_clean + width, first_noise + height
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"memory": CleanKeysValues(), "softcap": 5.0}, {"memory": CleanKeysValues(), "plan": (), "dropout": 0.1}],
)
def test_calls_outside_training_are_refused(options):
    each = torch.zeros(1, 2, 3, 4)
    with pytest.raises(SettingError, match="only the training of draft adapters"):
        attend(torch.nn.Identity(), each, each, each, None, **options)
