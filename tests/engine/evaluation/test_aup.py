"""AUP of curves against areas computed by hand."""

import math

import pytest

from nbdiff_engine import SettingError
from nbdiff_engine.evaluation.aup import aup


def test_a_single_point_is_a_rectangle():
    assert aup([(4.0, 90.0)]) == 360.0


def test_a_curve_without_loss_is_a_rectangle():
    assert aup([(1, 80), (3, 80), (5, 80)]) == pytest.approx(5 * 80)


def test_the_weight_falls_with_the_lost_accuracy():
    weighted = 78 * math.exp(-3 * (1 - 78 / 80))
    assert aup([(1, 80), (3, 78)]) == pytest.approx(1 * 80 + 2 * (weighted + 80) / 2)
    assert aup([(3, 78), (1, 80)]) == aup([(1, 80), (3, 78)])


def test_a_setting_that_loses_more_than_five_points_does_not_count():
    assert aup([(1, 80), (3, 75), (9, 74.9)]) == aup([(1, 80), (3, 75)])


def test_a_higher_best_accuracy_can_be_given():
    assert aup([(1, 80), (3, 80)], best=90) == pytest.approx(80 + 2 * 80 * math.exp(-3 * (1 - 80 / 90)))
    assert aup([(1, 80), (3, 80)], best=70) == aup([(1, 80), (3, 80)])


def test_zero_accuracy_gives_zero():
    assert aup([(1, 0), (4, 0)]) == 0


@pytest.mark.parametrize("points", [[], [(0, 50)], [(1, 101)], [(math.inf, 50)], [(math.nan, 50)], [(1, -1)]])
def test_invalid_points_are_refused(points):
    with pytest.raises(SettingError):
        aup(points)
