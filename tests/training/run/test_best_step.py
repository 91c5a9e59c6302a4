"""The best evaluated step, and how long no step has been better."""

import pytest

from training.run.best_step import best_of, score, waited
from training.run.log_lines import HeldOutEvaluation, HeldOutLosses


def line(step: int, mdm: float | None, ar: float = 1.0, size: int = 8) -> HeldOutEvaluation:
    return HeldOutEvaluation(step, {1: HeldOutLosses(None, ar), size: HeldOutLosses(mdm, ar)})


def test_the_lowest_mdm_loss_at_the_last_block_size_is_the_best():
    lines = [line(0, 1.0), line(2, 3.0), line(4, 2.0), line(6, 2.0), line(8, 2.5)]
    assert best_of(lines, 8).step == 4  # not step 0, which is the base, and the first of two equal ones
    assert waited(lines, 8) == 2


def test_an_evaluation_without_the_last_block_size_is_no_candidate():
    assert score(line(2, 3.0, size=4), 8) is None
    assert best_of([line(2, 3.0, size=4)], 8) is None
    assert waited([line(2, 3.0, size=4)], 8) == 0


@pytest.mark.parametrize("size", [1, 8])
def test_without_an_mdm_loss_the_ar_loss_decides(size):
    lines = [line(1, None, 2.0, size), line(2, None, 1.5, size), line(3, None, 1.75, size)]
    assert best_of(lines, size).step == 2
