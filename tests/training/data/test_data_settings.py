"""Data settings: each has a description, and a wrong one raises one sentence."""

import pytest

from training.data.data_settings import DataSettings
from training.errors import RecipeError


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "'source' is missing"),
        ({"source": " "}, "source is empty"),
        ({"source": "a", "format": "xml"}, "format is 'xml'"),
        ({"source": "a", "colour": 1}, "'colour' is not known here"),
        ({"source": "a", "columns": {"body": "x"}}, "names the role 'body'; choose one of text"),
        ({"source": "a", "columns": {"text": "x", "prompt": "y"}}, "which belong to different formats"),
        ({"source": "a", "columns": {"text": "x"}, "format": "prompt"}, "which format prompt does not read"),
        ({"source": "a", "held_out": -1}, "held_out is -1"),
        ({"source": "a", "held_out": True}, "not a boolean"),
        ({"source": "a", "limit": 0}, "limit is 0"),
        ({"source": "a", "seed": -1}, "seed is -1"),
        ({"source": "a", "raw": True, "format": "messages"}, "raw is set"),
        ({"source": "a", "weights": {"add": 1}}, "weights are for domains of the corpus"),
        ({"source": "corpus", "weights": {"add": -1}}, "the weight of 'add' is -1"),
        ({"source": "corpus", "weights": {"add": 0}}, "weights are all 0"),
        ({"source": "corpus", "weights": {"add": float("nan")}}, "the weight of 'add' is nan"),
    ],
)
def test_wrong_settings_raise_one_sentence(settings, sentence):
    with pytest.raises(RecipeError) as caught:
        DataSettings.of(**settings)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_setting_has_a_description():
    assert all(field.description for field in DataSettings.model_fields.values())
