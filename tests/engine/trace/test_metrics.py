"""The figures, on event lists small enough to count by hand."""

import pytest

from nbdiff_engine.trace.events import Commit, Denoise, Finish, FinishReason, Fixed, Prefill, Reason, Verify
from nbdiff_engine.trace.metrics import measure


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


def test_an_unshifted_checkpoint_has_its_first_token_from_a_denoise_pass():
    figures = measure(
        [
            Prefill(0, 1.0, 4),
            Denoise(0, 1.2, 0, 0, -2, 4, token(1)),
            Denoise(0, 1.4, 0, 1, -2, 4, token(0)),
            finish(1.4, 2),
        ]
    )
    assert figures.seconds_to_first_token == 1.4


def test_an_answer_that_is_not_done_has_no_figures():
    with pytest.raises(ValueError, match="do not end in a Finish"):
        measure([Prefill(0, 1.0, 4, token(0))])
