"""Figures of an evaluation against values computed by hand: batches, verdicts, drafts, paired comparisons."""

import pytest

from nbdiff_engine.evaluation.report import Answer, AnswerFigures, Comparison
from nbdiff_engine.evaluation.statistics import difference_interval, mcnemar_p, wilson_interval
from nbdiff_engine.trace.events import FinishReason
from nbdiff_engine.trace.metrics import Metrics


def answer(batch: int, prefill: float, decode: float, tokens: int, forwards: int) -> Answer:
    metrics = Metrics(tokens, prefill, decode, forwards, forwards, 0, None, None, prefill, prefill)
    return Answer([1] * tokens, FinishReason.EOS, metrics, True, batch)


def test_rows_of_a_batch_share_its_time_and_count_their_own_forwards():
    answers = [answer(0, 1.0, 4.0, 11, 10), answer(0, 1.0, 2.0, 6, 5), answer(1, 0.5, 1.5, 4, 3)]
    figures = AnswerFigures.pooled(answers, speculative=False)
    assert figures.tokens_per_forward == 18 / 18
    assert figures.tokens_per_second == pytest.approx(18 / (4.0 + 1.5))
    assert figures.seconds == pytest.approx(5.0 + 2.0)


def test_decoding_of_a_batch_lasts_from_the_first_start_to_the_last_end():
    figures = AnswerFigures.pooled([answer(0, 1.0, 2.0, 6, 5), answer(0, 2.0, 4.0, 11, 10)], speculative=False)
    assert figures.tokens_per_second == pytest.approx(15 / (6.0 - 1.0))


def test_an_unjudged_answer_does_not_count_as_wrong():
    metrics = Metrics(4, 0.0, 1.0, 3, 3, 0, None, None, 0, 0, drafted=5, accepted=2)
    verdicts = (True, False, None, True)
    answers = [
        Answer([1] * 4, FinishReason.LENGTH if right is None else FinishReason.EOS, metrics, right, batch)
        for batch, right in enumerate(verdicts)
    ]
    figures = AnswerFigures.pooled(answers, speculative=True)
    assert (figures.n, figures.judged, figures.accuracy) == (4, 3, 2 / 3)
    assert figures.accuracy_interval == wilson_interval(2, 3)
    assert (figures.drafted, figures.accepted, figures.cut_by_length) == (20, 8, 1 / 4)
    plain = AnswerFigures.pooled(answers[2:3], speculative=False)
    assert (plain.accuracy, plain.accuracy_interval, plain.drafted, plain.accepted) == (None, None, None, None)


def test_a_comparison_counts_prompts_with_two_judged_answers():
    pairs = [(True, False), (True, False), (False, True), (True, True), (None, True), (False, None)]
    found = Comparison.of(("nano", "a"), ("nano", "b"), pairs)
    assert (found.judged, found.only_this_right, found.only_baseline_right) == (4, 2, 1)
    assert found.accuracy_points == 100 * (2 - 1) / 4
    assert found.mcnemar_p == mcnemar_p(2, 1)
    assert found.interval_points == tuple(100 * end for end in difference_interval(2, 1, 4))
    unjudged = Comparison.of(("nano", "a"), ("nano", "b"), [(None, True)])
    assert (unjudged.judged, unjudged.accuracy_points, unjudged.interval_points, unjudged.mcnemar_p) == (
        0,
        None,
        None,
        None,
    )
