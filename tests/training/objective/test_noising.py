"""Noising: the blocks are those of decoding; which tokens are masked; the position of each target."""

import pytest
import torch

from nbdiff_engine.model.attention import PADDING
from tests.tiny import MASK
from tests.training.packs import EOS, answer, packed
from training.data.documents import Document
from training.objective.noising import IGNORED, Noising, noise

PLAIN = Document(tuple(range(3, 33)), None)


def noised(rows, block_size=8, seed=0, context="token_causal", **options):
    settings = {"ending_ids": frozenset([EOS]), **options}
    return noise(rows, Noising(block_size, MASK, **settings), torch.Generator().manual_seed(seed), context)


def width(batch) -> int:
    return batch.mdm_targets.shape[1]


def test_the_noised_half_contains_only_the_answers():
    batch = noised(packed(answer(5, 20), answer(4, 9, seed=1)))
    n = width(batch)
    assert n == 24 + 16  # each answer is filled to a multiple of 8
    assert batch.tokens.noised[0].tolist() == [True] * n + [False] * 64
    assert batch.tokens.position[0, :n].tolist() == [*range(5, 29), *range(4, 20)]
    assert batch.tokens.document[0, :n].tolist() == [0] * 24 + [1] * 16
    assert batch.tokens.block[0, :n].tolist() == [
        *[5] * 8, *[13] * 8, *[21] * 8, *[4] * 8, *[12] * 8,
    ]  # fmt: skip


def test_the_last_block_is_filled_with_eos_in_the_noised_half_only():
    rows = packed(answer(5, 20))
    batch = noised(rows, seed=3)
    ids, n = batch.ids[0], width(batch)
    assert set(ids[20:n].tolist()) <= {EOS, MASK}
    assert torch.equal(ids[n:], rows.ids[0])
    assert batch.target_count == 20


def test_a_fill_target_weighs_as_much_as_makes_the_fill_weigh_as_its_answer():
    batch = noised(packed(answer(5, 3), answer(4, 9, seed=1)), block_size=16, at_least_one=True)
    weights = batch.mdm_weights[0]
    # The weight is that of the target, which is predicted one position earlier.
    expected = [1.0] * 2 + [3 / 13] * 13 + [1.0] * 9 + [1.0] * 8
    assert weights.tolist() == pytest.approx(expected)
    assert batch.end_count == int((batch.mdm_targets == EOS).sum()) > 0


def test_an_answer_that_was_cut_has_a_short_last_block():
    cut = Document(tuple(range(3, 23)), ((5, 20),))
    assert width(noised(packed(cut))) == 15


def test_prompt_tokens_and_first_tokens_of_blocks_are_never_masked_and_never_scored():
    rows = packed(answer(5, 20), answer(7, 17, seed=1))
    for seed in range(50):
        batch = noised(rows, seed=seed)
        n = width(batch)
        masked = batch.ids[0, :n] == MASK
        first = batch.tokens.position[0, :n] == batch.tokens.block[0, :n]
        assert not (masked & first).any()
        scored = (batch.mdm_targets[0] != IGNORED).nonzero()[:, 0]
        assert torch.equal(scored + 1, masked.nonzero()[:, 0])  # with the shift, the position before predicts the token
        assert not (batch.ids[0, n:] == MASK).any()


def test_mdm_targets_are_the_unmasked_tokens():
    rows = packed(answer(5, 20))
    truth = torch.cat([rows.ids[0, 5:25], torch.full((4,), EOS)])
    batch = noised(rows, seed=1)
    for place in (batch.mdm_targets[0] != IGNORED).nonzero()[:, 0].tolist():
        assert batch.mdm_targets[0, place] == truth[place + 1]


def test_block_size_1_has_no_noised_half():
    batch = noised(packed(answer(5, 20)), block_size=1)
    assert width(batch) == 0
    assert batch.ids.shape == (1, 64)


def test_ar_targets_are_the_next_answer_tokens():
    rows = packed(answer(5, 20), PLAIN)
    batch = noised(rows)
    targets = batch.ar_targets[0]
    assert targets[:4].tolist() == [IGNORED] * 4  # inside the prompt
    assert torch.equal(targets[4:24], rows.ids[0, 5:25])
    assert targets[24] == IGNORED  # the next document begins
    assert torch.equal(targets[25:54], rows.ids[0, 26:55])
    assert targets[54:].tolist() == [IGNORED] * 10  # padding
    assert batch.target_count == 20 + 29


def test_in_a_block_causal_context_only_first_tokens_of_blocks_are_ar_targets():
    batch = noised(packed(answer(5, 20)), context="block_causal")
    assert (batch.ar_targets[0] != IGNORED).nonzero()[:, 0].tolist() == [4, 12, 20]
    assert batch.target_count == 20  # the normaliser does not change


def test_every_block_draws_its_own_share_of_masks():
    rows = packed(*[answer(4, 60, seed=seed) for seed in range(4)], length=256, rows=1)
    shares = []
    for seed in range(60):
        batch = noised(rows, block_size=32, seed=seed)
        n = width(batch)
        masked = (batch.ids[0, :n] == MASK).view(-1, 32)
        shares += masked[:, 1:].float().mean(dim=1).tolist()
    shares = torch.tensor(shares)
    assert abs(shares.mean() - 0.5) < 0.05  # E[t]
    # One t per row would give the blocks of a row similar shares; one t per token, shares near 0.5.
    assert abs(shares.var() - (1 / 12 + 1 / 6 / 31)) < 0.02


def test_every_block_has_at_least_one_mask():
    rows = packed(*[answer(4, 28, seed=seed) for seed in range(4)], length=128)
    for seed in range(40):
        batch = noised(rows, block_size=4, seed=seed, at_least_one=True)
        n = width(batch)
        assert ((batch.ids[0, :n] == MASK).view(-1, 4).sum(dim=1) >= 1).all()


def test_complementary_masks_cover_each_token_exactly_once():
    rows = packed(answer(5, 24))
    batch = noised(rows, complementary=True)
    n = width(batch)
    masked = (batch.ids[:, :n] == MASK).sum(dim=0)
    first = batch.tokens.position[0, :n] == batch.tokens.block[0, :n]
    assert torch.equal(masked, (~first).long())
    assert batch.target_count == 48


def test_without_the_shift_first_tokens_are_masked_and_each_target_is_at_its_own_position():
    rows = packed(answer(5, 24))
    seen = torch.zeros(24, dtype=torch.bool)
    for seed in range(30):
        batch = noised(rows, seed=seed, shift=0)
        masked = batch.ids[0, :24] == MASK
        seen |= masked
        assert torch.equal(masked, batch.mdm_targets[0] != IGNORED)
    assert seen.all()


def test_each_turn_of_a_conversation_starts_new_blocks():
    ids = tuple(range(3, 33))
    batch = noised(packed(Document(ids, ((4, 10), (20, 30)))), block_size=4)
    n = width(batch)
    assert batch.tokens.block[0, :n].tolist() == [4, 4, 4, 4, 8, 8, 20, 20, 20, 20, 24, 24, 24, 24, 28, 28]


def test_padding_belongs_to_no_document():
    rows = packed(answer(3, 6), answer(3, 30, seed=1), length=40, rows=2)
    batch = noised(rows)
    assert batch.tokens.document.shape == batch.ids.shape
    assert not batch.tokens.noised[batch.tokens.document == PADDING].any()


@pytest.mark.parametrize("seed", [0, 7])
def test_noise_is_a_function_of_its_generator(seed):
    rows = packed(answer(5, 20))
    assert torch.equal(noised(rows, seed=seed).ids, noised(rows, seed=seed).ids)
    assert not torch.equal(noised(rows, seed=seed).ids, noised(rows, seed=seed + 1).ids)
