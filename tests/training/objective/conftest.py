"""Fixtures of the tests of the objective."""

import pytest

from training.objective import attention_plan


@pytest.fixture(params=[(256, 256, 16), (12, 8, 4)], ids=["whole documents", "runs of eight"])
def cut(request, monkeypatch):
    """Sizes with which attention takes a document at once, or in runs."""
    for name, value in zip(("_SHORT", "_RUN", "_ROUND"), request.param, strict=True):
        monkeypatch.setattr(attention_plan, name, value)
