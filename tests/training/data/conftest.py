"""Fixtures of the tests of sources: an encoder, and a cache of datasets for one test."""

import datasets
import pytest

from tests.training.encoders import EOS, LOADED, MASK
from training.data.encoder import Encoder


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(LOADED, [EOS], forbidden_ids=[MASK])


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    """A new cache for every test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
