"""Noise rows: where their groups are, what they read and predict."""

import math

import pytest
import torch

from nbdiff_engine.model.attention import PADDING
from tests.training.objective.drafting import draft_batch
from tests.training.packs import answer, packed
from training.data.documents import Document
from training.objective.draft_noising import DraftNoising
from training.objective.noising import IGNORED


def test_a_group_has_a_row_at_every_distance_behind_its_anchor_and_predicts_the_token_after_each():
    document = answer(5, 20)
    batch = draft_batch(packed(document), block_size=4, seed=1)
    assert batch.group == 3
    anchors = batch.anchor[0].view(-1, 3)
    assert (anchors == anchors[:, :1]).all()
    assert anchors[0, 0] == 4  # the prompt's last token
    assert ((batch.position - batch.anchor)[0].view(-1, 3) == torch.tensor([1, 2, 3])).all()
    for position, target in zip(batch.position[0].tolist(), batch.targets[0].tolist(), strict=True):
        assert target == (document.ids[position + 1] if position + 1 < 25 else IGNORED)


def test_every_token_of_an_answer_but_the_first_two_is_predicted_as_often_at_each_distance():
    seen = torch.zeros(25, 5)
    for seed in range(300):
        batch = draft_batch(packed(answer(5, 20)), block_size=5, seed=seed)
        scored = batch.targets[0] != IGNORED
        distance = (batch.position - batch.anchor)[0][scored]
        seen.index_put_((batch.position[0][scored] + 1, distance), torch.tensor(1.0), accumulate=True)
    assert seen[:6].sum() == 0  # the prompt, and the first token, which AR gives
    later = seen[10:, 1:]  # after the first group, which is always there
    assert later.sum(1).min() == later.sum(1).max() == 300
    assert (later - 75).abs().max() < 35


def test_several_groups_per_clean_pass_have_different_anchors():
    one, two, all_ = (
        draft_batch(packed(answer(5, 40)), 4, 0, groups=groups).anchor[0].unique() for groups in (1, 2, 3)
    )
    assert len(one) < len(two) < len(all_)
    assert all_.tolist() == list(range(4, 43))  # every token that two more follow


def test_a_group_has_all_its_rows_at_the_end_of_an_answer():
    batch = draft_batch(packed(answer(5, 4)), block_size=8)
    assert batch.position[0].tolist()[:7] == [5, 6, 7, 8, 9, 10, 11]
    assert (batch.targets[0, :7] != IGNORED).tolist() == [True, True, True] + [False] * 4
    assert batch.mask[0].all()


def test_rows_of_padding_are_not_scored():
    batch = draft_batch(packed(answer(5, 30), answer(3, 4, seed=1), length=35, rows=2))
    padding = batch.document == PADDING
    assert padding.any()
    assert (batch.targets[padding] == IGNORED).all()
    assert (batch.weight[padding] == 0).all()


def test_uniform_noise_is_drawn_from_1_to_high():
    ids = torch.cat([draft_batch(packed(answer(5, 30)), 8, seed, noise_high=6).ids[0] for seed in range(20)])
    assert sorted(ids.unique().tolist()) == [1, 2, 3, 4, 5]
    assert not draft_batch(packed(answer(5, 30)), noise_high=6).mask.any()


def test_in_groups_with_some_noise_the_other_rows_read_the_text_and_known_tokens_are_not_scored():
    document = answer(5, 30)
    batch = draft_batch(packed(document), 8, 2, all_noise=0.0)
    known = ~batch.mask[0].view(-1, 7)
    assert 0.2 < known.float().mean() < 0.8
    ids, position = batch.ids[0].view(-1, 7), batch.position[0].view(-1, 7)
    targets = batch.targets[0].view(-1, 7)
    for group, row in known.nonzero().tolist():
        assert ids[group, row] == document.ids[position[group, row]]
        if row:
            assert targets[group, row - 1] == IGNORED
    last = position[:, -1] + 1 < 35
    assert (targets[last, -1] != IGNORED).all()  # its token is after the group
    assert draft_batch(packed(document), 8, 2, all_noise=1.0).mask.all()


def test_the_weight_of_a_draft_falls_with_its_distance():
    batch = draft_batch(packed(answer(5, 30)), 8, decay=3.0)
    scored = batch.weight[0] > 0
    distance = (batch.position - batch.anchor)[0][scored]
    expected = torch.exp(-(distance - 1) / 3.0)
    torch.testing.assert_close(batch.weight[0][scored], expected)
    assert batch.target_count == pytest.approx(expected.sum().item())
    assert math.isclose(draft_batch(packed(answer(5, 30)), 8).target_count, scored.sum())


def test_the_column_of_a_row_is_the_text_at_its_position():
    data = packed(answer(5, 12), Document(answer(20, 30, seed=2).ids, ((4, 15), (20, 50))), length=70)
    batch = draft_batch(data)
    scored = batch.targets[0] != IGNORED
    column = batch.column[0][scored]
    assert torch.equal(data.position[0][column], batch.position[0][scored])
    assert torch.equal(data.document[0][column], batch.document[0][scored])
    assert torch.equal(data.ids[0][column + 1], batch.targets[0][scored])


def test_an_evaluation_has_noise_alone_at_one_offset_with_equal_weights():
    assert DraftNoising(8, 5, 0.3, 4, 7.0).for_evaluation() == DraftNoising(8, 5, 1.0, 1, None)
