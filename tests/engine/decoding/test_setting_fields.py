"""Fields that take several values: how they are typed, and how they are written down."""

import json

import pytest

from nbdiff_engine.decoding.setting_fields import is_list, words_of
from nbdiff_engine.decoding.settings import SETTING_FIELDS, DecodeSettings
from nbdiff_engine.errors import SettingError
from nbdiff_engine.evaluation.settings_grid import label_of, parse_setting


def test_lists_and_tables_can_be_typed():
    typed = DecodeSettings.of(logit_bias=["13=-5", "2=1.5 40=3"], stop_token_ids=["5", "7 9"])
    assert typed == DecodeSettings.of(logit_bias={13: -5, 2: 1.5, 40: 3}, stop_token_ids=(5, 7, 9))
    assert DecodeSettings.of(logit_bias="13=-5", stop_token_ids="5 7") == DecodeSettings.of(
        logit_bias={"13": "-5"}, stop_token_ids=[5, 7]
    )
    assert DecodeSettings.of(stop_token_ids=5).stop_token_ids == (5,)
    assert DecodeSettings.of(logit_bias=None, stop_token_ids=None) == DecodeSettings()
    again = json.loads(json.dumps(typed.model_dump(mode="json")))
    assert DecodeSettings.of(**again) == typed


@pytest.mark.parametrize("typed", ["13=", "=4", "a=4", "13=b", "1.5=2"])
def test_a_bias_that_is_no_number_is_one_sentence(typed):
    with pytest.raises(SettingError) as caught:
        DecodeSettings.of(logit_bias=[typed])
    assert str(caught.value).startswith("logit_bias")
    assert "\n" not in str(caught.value)


def test_fields_with_several_values_are_known():
    assert {name for name, field in SETTING_FIELDS.items() if is_list(field)} == {
        "stop",
        "stop_token_ids",
        "logit_bias",
    }


def test_a_setting_in_words_can_be_read_again():
    settings = DecodeSettings.of(strategy="ar", logit_bias={13: -5, 2: 0.5}, stop_token_ids=[5, 7], min_p=0.1)
    assert parse_setting(label_of(settings)) == settings
    assert "logit_bias=13=-5 2=0.5" in label_of(settings)
    assert (words_of((5, 7)), words_of("text"), words_of(0.5)) == ("5 7", "text", 0.5)
