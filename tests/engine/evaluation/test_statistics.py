"""Confidence intervals and McNemar's test against known values."""

import itertools

import pytest

from nbdiff_engine.evaluation.statistics import difference_interval, mcnemar_p, wilson_interval


@pytest.mark.parametrize(
    ("right", "n", "interval"),  # R: binom.confint(right, n, methods = "wilson")
    [(8, 10, (0.4901625, 0.9433178)), (0, 10, (0.0, 0.2775328)), (10, 10, (0.7224672, 1.0)), (1, 1, (0.2065493, 1.0))],
)
def test_wilsons_interval_against_known_values(right, n, interval):
    assert wilson_interval(right, n) == pytest.approx(interval, abs=1e-6)


def test_wilsons_interval_needs_a_problem():
    assert wilson_interval(0, 0) is None


def test_the_ends_of_wilsons_interval_are_where_the_estimate_is_one_quantile_off():
    low, high = wilson_interval(37, 60)
    for share in (low, high):
        assert abs(37 / 60 - share) / (share * (1 - share) / 60) ** 0.5 == pytest.approx(1.959963984540054)


@pytest.mark.parametrize(("b", "c"), [(b, c) for b in range(5) for c in range(5)])
def test_mcnemar_is_the_share_of_coin_tosses_at_least_as_lopsided(b, c):
    tosses = list(itertools.product((0, 1), repeat=b + c))
    as_lopsided = sum(abs(2 * sum(each) - b - c) >= abs(b - c) for each in tosses)
    assert mcnemar_p(b, c) == pytest.approx(as_lopsided / len(tosses))


def test_mcnemar_against_known_values():
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(0, 10) == mcnemar_p(10, 0) == 2 / 1024
    assert mcnemar_p(1, 5) == 2 * (1 + 6) / 64
    assert mcnemar_p(150, 86) == pytest.approx(3.716e-05, rel=1e-3)  # approval ratings, Agresti 1990; R exact2x2
    assert 0 < mcnemar_p(2000, 1500) < 1e-15


def test_the_interval_against_known_values():
    # R: PropCIs::diffpropci.mp(b = 40, c = 20, n = 160) takes c - b.
    assert difference_interval(20, 40, 160) == pytest.approx((-0.21601726, -0.03089632), abs=1e-7)
    low, high = difference_interval(0, 0, 100)
    assert -low == high > 0
    assert difference_interval(5, 0, 5)[1] == 1.0
