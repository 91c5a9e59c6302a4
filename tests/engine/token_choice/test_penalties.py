"""Penalties and bias: those of transformers and of OpenAI's API, for each position's own prefix."""

from collections import Counter

import pytest
import torch
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor

from nbdiff_engine.token_choice.penalties import Penalties, PrefixCounts, Prefixes

VOCABULARY = 30
PROMPT, ANSWER, BLOCK = [3, 4, 4, 9], [4, 7, 7, 12], [7, None, 20, 3, None, 20, 20]


def logits_of(count: int) -> torch.Tensor:
    return torch.randn(count, VOCABULARY, generator=torch.Generator().manual_seed(2)) * 3


def prefixes(lengths: list[int]) -> Prefixes:
    counts = PrefixCounts(len(PROMPT))
    counts.extend(PROMPT)
    counts.extend(ANSWER)
    return Prefixes(counts, BLOCK, lengths)


def known(length: int) -> list[int]:
    """The block's known tokens before its index `length`."""
    return [token for token in BLOCK[:length] if token is not None]


LENGTHS = [0, 1, 2, 4, 7]


@pytest.mark.parametrize("penalty", [0.6, 1.0001, 1.3, 5.0])
def test_repetition_is_that_of_transformers_over_prompt_and_answer(penalty):
    logits = logits_of(len(LENGTHS))
    changed = Penalties(repetition=penalty).changed(logits, [prefixes(LENGTHS)])
    for row, length in enumerate(LENGTHS):
        ids = torch.tensor([[*PROMPT, *ANSWER, *known(length)]])
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[row : row + 1].clone())[0]
        assert torch.equal(changed[row], expected)
        assert not torch.equal(changed[row], logits[row])


@pytest.mark.parametrize(("presence", "frequency"), [(0.7, 0.0), (0.0, 0.4), (-1.0, 0.3)])
def test_presence_and_frequency_count_the_answer_alone(presence, frequency):
    logits = logits_of(len(LENGTHS))
    changed = Penalties(presence=presence, frequency=frequency).changed(logits, [prefixes(LENGTHS)])
    for row, length in enumerate(LENGTHS):
        expected = logits[row].clone()
        for token, times in Counter([*ANSWER, *known(length)]).items():
            expected[token] -= presence + frequency * times
        assert torch.allclose(changed[row], expected, atol=1e-6)
        assert changed[row, 9] == logits[row, 9]  # of the prompt only


def test_bias_comes_before_the_penalties_as_in_transformers():
    logits = logits_of(1)
    changed = Penalties(repetition=1.5, bias=((4, -8.0), (11, 2.5))).changed(logits, [prefixes([0])])
    ids = torch.tensor([[*PROMPT, *ANSWER]])
    biased = SequenceBiasLogitsProcessor([[[4], -8.0], [[11], 2.5]])(ids, logits.clone())
    assert torch.equal(changed, RepetitionPenaltyLogitsProcessor(1.5)(ids, biased))


def test_a_block_that_holds_the_end_of_the_prompt_counts_it_as_prompt():
    counts = PrefixCounts(len(PROMPT))
    counts.extend(PROMPT[:2])
    changed = Penalties(frequency=1.0).changed(logits_of(1), [Prefixes(counts, [*PROMPT[2:], 5, 5, None], [4])])
    expected = logits_of(1)
    expected[0, 5] -= 2.0
    assert torch.equal(changed, expected)


def test_each_row_has_its_own_prefix_and_rows_without_positions_have_none():
    other = Prefixes(PrefixCounts(1), [25], [1, 1])
    nothing = Prefixes(PrefixCounts(0), [8], [])
    logits = logits_of(4)
    penalties = Penalties(repetition=2.0, presence=1.0)
    changed = penalties.changed(logits, [prefixes([0, 3]), nothing, other])
    assert torch.equal(changed[:2], penalties.changed(logits[:2], [prefixes([0, 3])]))
    assert torch.equal(changed[2:], penalties.changed(logits[2:], [other]))
    assert set((changed[2:] != logits[2:]).nonzero()[:, 1].tolist()) == {25}


def test_an_empty_prefix_and_neutral_values_change_nothing():
    logits = logits_of(2)
    empty = Prefixes(PrefixCounts(0), [None, None], [0, 1])
    assert torch.equal(Penalties(repetition=2.0, frequency=1.0).changed(logits, [empty]), logits)
    assert not Penalties().change_logits
    assert Penalties(bias=((1, 1.0),)).change_logits
    assert not Penalties(bias=((1, 1.0),)).read_prefixes


def test_forbidden_tokens_stay_forbidden():
    logits = logits_of(1)
    logits[0, 7] = -torch.inf
    changed = Penalties(repetition=0.5, presence=-2.0, bias=((7, 100.0),)).changed(logits, [prefixes([0])])
    assert changed[0, 7] == -torch.inf
