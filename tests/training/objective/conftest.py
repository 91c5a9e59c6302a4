"""Fixtures of the tests of the objective."""

import pytest

from training.objective import attention_plan


@pytest.fixture(params=[(256, 256, 16), (12, 8, 4)], ids=["whole documents", "runs of eight"])
def cut(request, monkeypatch):
    """The two ways a document is taken: at once, or run by run."""
    for name, value in zip(("_SHORT", "_RUN", "_ROUND"), request.param, strict=True):
        monkeypatch.setattr(attention_plan, name, value)
