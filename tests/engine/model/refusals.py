"""The sentence with which a checkpoint is refused."""

import pytest

import nbdiff_engine as nb


def refusal(name, error: type[nb.NBDiffError] = nb.CheckpointError, **options) -> str:
    """The message of the error that `load` raises: one sentence on one line."""
    with pytest.raises(error) as caught:
        nb.load(name, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    return sentence
