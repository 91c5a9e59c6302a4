"""The grid of an evaluation: strategies x block sizes x thresholds, each only where a strategy uses it."""

import pytest

import nbdiff_engine as nb
from nbdiff_engine.evaluation.eval_command import choose_settings
from nbdiff_engine.evaluation.settings_grid import grid, label_of, listed, parse_setting


def labels(*axes) -> list[str]:
    return [label_of(each) for each in grid(*axes)]


def test_a_grid_is_a_product_with_ar_once_and_thresholds_only_for_block_diffusion():
    assert labels(["ar", "block_diffusion", "self_speculative"], ["4", "8"], ["0.5", "0.9"]) == [
        "ar",
        "block_diffusion,block_size=4,unmasking=confidence,threshold=0.5",
        "block_diffusion,block_size=4,unmasking=confidence,threshold=0.9",
        "block_diffusion,block_size=8,unmasking=confidence,threshold=0.5",
        "block_diffusion,block_size=8,unmasking=confidence,threshold=0.9",
        "self_speculative,block_size=4",
        "self_speculative,block_size=8",
    ]


def test_values_missing_from_the_grid_come_from_the_checkpoint():
    assert labels([], ["4"], []) == ["ar", "block_diffusion,block_size=4", "self_speculative,block_size=4"]
    assert labels(["block_diffusion"], [], ["0.5"]) == ["block_diffusion,unmasking=confidence,threshold=0.5"]


def test_a_block_of_one_has_no_thresholds():
    assert labels(["block_diffusion"], ["1"], ["0.5", "0.9"]) == ["block_diffusion,block_size=1"]


def test_repeated_values_give_one_setting():
    assert labels(["ar", "ar"], ["4", "04"], []) == ["ar"]
    assert labels(["block_diffusion"], ["4", "4"], []) == ["block_diffusion,block_size=4"]


def test_the_setting_option_accepts_every_label_of_the_grid():
    for label in labels([], ["4", "8"], ["0.5"]):
        assert label_of(parse_setting(label)) == label


def test_lists_are_repeated_or_separated_by_commas():
    assert listed(["4, 8", "16"]) == ["4", "8", "16"]
    assert listed(None) == []


def test_settings_come_before_the_grid_and_are_not_decoded_twice():
    chosen = choose_settings(["self_speculative,block_size=4", "ar"], None, ["4"], None)
    assert [label_of(each) for each in chosen] == [
        "self_speculative,block_size=4",
        "ar",
        "block_diffusion,block_size=4",
    ]
    assert choose_settings(None, None, None, None) is None


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ((["magic"], [], []), "strategy is 'magic'; choose one of ar"),
        (([""], [], []), "strategy is ''"),
        (([], ["x"], []), "block_size is 'x'"),
        (([], ["0"], []), "block_size is 0; it must be at least 1"),
        (([], ["5000"], []), "block_size is 5000; it must be at most"),
        (([], [""], []), "block_size is ''"),
        (([], [], ["1.5"]), "threshold is 1.5"),
        (([], [], ["nan"]), "threshold is nan"),
        ((["ar"], ["0"], []), "block_size is 0"),
    ],
)
def test_a_bad_value_gives_one_sentence(axes, sentence):
    with pytest.raises(nb.SettingError) as error:
        grid(*axes)
    assert sentence in str(error.value)
