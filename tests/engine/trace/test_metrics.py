"""Metrics of short event lists, against values counted by hand."""

import pytest

from nbdiff_engine.trace.events import Commit, Denoise, Finish, FinishReason, Fixed, Prefill, Reason, Verify
from nbdiff_engine.trace.metrics import Metrics, measure, pooled


def token(position: int) -> tuple[Fixed, ...]:
    return (Fixed(position, 7, 0.5, Reason.AR),)


def finish(time: float, tokens: int) -> Finish:
    return Finish(0, time, FinishReason.LENGTH, (7,) * tokens)


def test_ar_is_one_token_a_forward():
    events = [Prefill(0, 1.0, 4, token(0))]
    events += [Commit(0, 1.0 + 0.5 * n, n - 1, n - 1, n, token(n)) for n in range(1, 6)]
    figures = measure([*events, finish(3.5, 6)])
    assert figures.tokens_per_forward == 1.0
    assert (figures.decode_forwards, figures.denoise_forwards, figures.commit_forwards) == (5, 0, 5)
    assert figures.prefill_seconds == figures.seconds_to_first_token == 1.0
    assert figures.seconds_to_first_block == 1.5
    assert figures.decode_seconds == 2.5
    assert figures.tokens_per_second == 2.0


def test_block_diffusion_counts_denoise_and_commit_forwards():
    figures = measure(
        [
            Prefill(0, 1.0, 4, token(0)),
            Denoise(0, 1.2, 0, 0, 0, 4, token(1)),
            Denoise(0, 1.4, 0, 1, 0, 4, token(2) + token(3)),
            Commit(0, 1.6, 0, 0, 4, token(4)),
            Denoise(0, 2.0, 1, 0, 4, 8, token(5) + token(6)),
            finish(2.0, 7),
        ]
    )
    assert figures.output_tokens == 7
    assert figures.decode_forwards == 4
    assert figures.tokens_per_forward == 6 / 4
    assert figures.tokens_per_second == pytest.approx(6.0)
    assert figures.seconds_to_first_block == 1.6


def test_self_speculation_counts_drafts():
    figures = measure(
        [
            Prefill(0, 1.0, 4, token(0)),
            Denoise(0, 1.5, 0, 0, 0, 8, tuple(each for n in range(1, 8) for each in token(n))),
            Verify(0, 2.0, 0, 0, 8, 3, token(4)),
            finish(2.0, 5),
        ]
    )
    assert (figures.drafted, figures.accepted) == (7, 3)
    assert figures.tokens_per_forward == (3 + 1) / (1 + 1)  # (k + 1) / (D + 1)


def test_no_forward_gives_no_rate():
    figures = measure([Prefill(0, 1.0, 4, token(0)), finish(1.0, 1)])
    assert figures.tokens_per_forward is None
    assert figures.tokens_per_second is None
    assert figures.seconds_to_first_block == 1.0


def test_an_unshifted_checkpoint_gets_its_first_token_from_a_denoise_pass():
    figures = measure(
        [
            Prefill(0, 1.0, 4),
            Denoise(0, 1.2, 0, 0, -2, 4, token(1)),
            Denoise(0, 1.4, 0, 1, -2, 4, token(0)),
            finish(1.4, 2),
        ]
    )
    assert figures.seconds_to_first_token == 1.4


def test_an_unfinished_answer_has_no_metrics():
    with pytest.raises(ValueError, match="do not end in a Finish"):
        measure([Prefill(0, 1.0, 4, token(0))])


def answer(prefill: float, decode: float, tokens: int, forwards: int) -> Metrics:
    return Metrics(tokens, prefill, decode, forwards, forwards, 0, None, None, prefill, prefill, drafted=4, accepted=3)


def test_pooled_rates_divide_sums_over_all_answers():
    one, other = answer(1.0, 4.0, 11, 5), answer(0.5, 1.0, 3, 3)
    rates = pooled([one, other])
    assert (rates.answers, rates.output_tokens, rates.decoded_tokens, rates.decode_forwards) == (2, 14, 12, 8)
    assert rates.tokens_per_forward == 12 / 8
    assert rates.tokens_per_second == pytest.approx(12 / 5)
    assert (rates.seconds, rates.decode_seconds) == (6.5, 5.0)
    assert (rates.drafted, rates.accepted) == (8, 6)


def test_pooled_rates_of_one_answer_equal_its_own():
    measured = measure([Prefill(0, 1.0, 4, token(0)), Commit(0, 1.5, 0, 0, 1, token(1)), finish(1.5, 2)])
    rates = pooled([measured])
    assert rates.tokens_per_forward == measured.tokens_per_forward == 1.0
    assert rates.tokens_per_second == measured.tokens_per_second == 2.0


def test_rows_of_a_batch_share_its_time_in_pooled_rates():
    rows = [answer(1.0, 4.0, 11, 5), answer(2.0, 1.0, 3, 3), answer(0.5, 1.0, 2, 1)]
    rates = pooled(rows, ["a", "a", "b"])
    assert (rates.seconds, rates.decode_seconds) == (5.0 + 1.5, 4.0 + 1.0)
    assert rates.tokens_per_second == 13 / 5
    assert rates.tokens_per_forward == 13 / 9


def test_no_answer_and_no_forward_give_no_rate():
    for rates in (pooled([]), pooled([answer(1.0, 0.0, 1, 0)])):
        assert rates.tokens_per_forward is None
        assert rates.tokens_per_second is None
