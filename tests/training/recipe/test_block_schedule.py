"""Block growth: Eq. 3 of the paper, with steps as fractions of a run."""

import pytest
from pydantic import ValidationError

from training.recipe.block_schedule import BlockGrowth


def eq_3(step: int, b_0: int, ratio: int, s_0: float, delta: float, b_max: int) -> int:
    return min(b_max, b_0 * ratio ** int(max(0, step - s_0) // delta))


@pytest.mark.parametrize(
    ("b_0", "ratio", "start", "interval", "b_max"),
    [(1, 2, 0.0, 0.125, 32), (2, 2, 0.1, 0.1, 16), (1, 4, 0.25, 0.05, 32), (1, 3, 0.0, 0.2, 10), (4, 2, 0.5, 0.5, 4)],
)
def test_geometric_growth_is_equation_3(b_0, ratio, start, interval, b_max):
    steps = 4000
    schedule = BlockGrowth(b_0=b_0, ratio=ratio, start=start, interval=interval, b_max=b_max).over(steps)
    for step in range(steps):
        assert schedule.at(step) == eq_3(step, b_0, ratio, start * steps, interval * steps, b_max), step


def test_the_defaults_grow_over_the_first_2500_of_4000_steps():
    assert BlockGrowth().over(4000).stages == ((0, 1), (500, 2), (1000, 4), (1500, 8), (2000, 16), (2500, 32))


def test_a_shorter_run_has_the_same_growth_in_fractions():
    long, short = BlockGrowth().over(4000), BlockGrowth().over(40)
    assert [short.at(step) for step in range(40)] == [long.at(step * 100) for step in range(40)]


def test_a_run_of_one_step_has_a_block_size():
    assert BlockGrowth().over(1).at(0) in (1, 2, 4, 8, 16, 32)


def test_fixed_growth_uses_the_largest_block_at_every_step():
    assert {BlockGrowth(kind="fixed", b_max=32).over(10).at(step) for step in range(10)} == {32}


def test_a_list_accepts_fractions_and_step_numbers():
    fractions = BlockGrowth(kind="list", sizes=(1, 8, 32), starts=(0, 0.25, 0.5), b_max=32).over(100)
    steps = BlockGrowth(kind="list", sizes=(1, 8, 32), starts=(0, 25, 50), b_max=32).over(100)
    assert fractions.stages == steps.stages == ((0, 1), (25, 8), (50, 32))


def test_the_phases_of_a_run_are_the_sizes_of_its_steps():
    steps = BlockGrowth(kind="list", sizes=(1, 8, 32), starts=(0, 25, 50), b_max=32)
    assert steps.over(60).phases(60) == [(0, 25, 1), (25, 50, 8), (50, 60, 32)]
    assert steps.over(50).phases(50) == [(0, 25, 1), (25, 50, 8)]  # the last size is not reached
    assert steps.over(1).phases(1) == [(0, 1, 1)]
    for total in (1, 2, 5, 40):
        schedule = BlockGrowth().over(total)
        sizes = [size for first, end, size in schedule.phases(total) for _ in range(first, end)]
        assert sizes == [schedule.at(step) for step in range(total)]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"b_0": 64}, "b_0 is 64, but b_max is 32"),
        ({"kind": "list", "sizes": (1, 2), "starts": (0,)}, "as many starts as sizes"),
        ({"kind": "list", "sizes": (1, 32), "starts": (0.5, 0.2)}, "begin at 0 and increase"),
        ({"kind": "list", "sizes": (1, 8, 32), "starts": (0, 0.5, 100)}, "all as fractions of the run, below 1, or"),
        ({"kind": "list", "sizes": (1, 32), "starts": (0, 1.5)}, "all as fractions of the run, below 1, or"),
        ({"kind": "list", "sizes": (1, 16), "starts": (0, 0.2)}, "last of sizes is 16, but b_max is 32"),
        ({"ratio": 1}, "greater than or equal to 2"),
        ({"interval": 0}, "greater than 0"),
        ({"b_max": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_raise_an_error(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        BlockGrowth(**fields)
