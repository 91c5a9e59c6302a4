"""The start of the engine: a new process measures its parts, and its errors are reported in a sentence."""

import pytest

from benchmarks import startup
from benchmarks.startup import ENGINE_PARTS, measure_engine, medians
from nbdiff_engine.errors import NBDiffError


@pytest.mark.slow
def test_a_new_process_times_its_parts():
    seconds = measure_engine("nano-ar", "ar")
    assert set(seconds) == set(ENGINE_PARTS)
    parts = [seconds[name] for name in ENGINE_PARTS if name != "all"]
    assert all(each > 0 for each in parts)
    assert sum(parts) < seconds["all"]


@pytest.mark.slow
def test_an_error_of_the_engine_is_raised():
    with pytest.raises(NBDiffError, match="nano-ar is an autoregressive checkpoint"):
        measure_engine("nano-ar", "block_diffusion")


def test_a_process_that_fails_is_reported(monkeypatch):
    monkeypatch.setattr(startup, "ENGINE", "raise SystemExit('no such thing')")
    with pytest.raises(NBDiffError, match=r"without a token: no such thing"):
        measure_engine("nano-ar", "ar")


def test_the_first_measurement_is_discarded():
    seconds = iter([{"all": 100.0}, {"all": 1.0}, {"all": 3.0}, {"all": 2.0}])
    assert medians(lambda: next(seconds), 3, "test") == {"all": 2.0}
