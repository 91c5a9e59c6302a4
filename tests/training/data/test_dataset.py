"""Training and held-out documents: a fixed split of rows, and the splits of the project's corpus."""

import sys
import types
from collections import Counter, namedtuple

import datasets
import pytest

from tests.training.encoders import EOS, LOADED, MASK, written
from training.data import dataset as dataset_module
from training.data.data_settings import DataSettings
from training.data.dataset import ENDLESS, CorpusSource, open_source
from training.data.formats import Encoder
from training.errors import DataError


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(LOADED, [EOS], forbidden_ids=[MASK])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A new cache for every test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_held_out_rows_are_not_in_train_and_do_not_change(tmp_path, encoder):
    source = written(tmp_path / "a.jsonl", [{"text": f"text {number}"} for number in range(50)])

    def opened(**settings):
        parts = open_source(DataSettings.of(source=source, **settings), encoder)
        return [{part[index].ids for index in range(len(part))} for part in parts]

    train, held_out = opened(held_out=10)
    assert (len(train), len(held_out)) == (40, 10)
    assert not train & held_out
    assert [train, held_out] == opened(held_out=10)
    assert held_out != opened(held_out=10, seed=1)[1]
    assert [len(part) for part in opened(held_out=64)] == [25, 25]
    assert [len(part) for part in opened(limit=7, held_out=2)] == [5, 2]
    assert [len(part) for part in opened(limit=1)] == [1, 0]


def test_a_document_does_not_change_and_a_wrong_index_raises_an_error(tmp_path, encoder):
    source = written(tmp_path / "a.jsonl", [{"text": f"text {number}"} for number in range(4)])
    train, held_out = open_source(DataSettings.of(source=source, held_out=1), encoder)
    assert train[1] == train[1] == encoder.encode_text(encoder.tokenizer.decode(train[1].ids[:-1]))
    assert held_out.name == "a.jsonl, held out"
    for index in (3, -1):
        with pytest.raises(IndexError):
            train[index]


def test_a_row_is_encoded_once_until_the_cache_is_full(tmp_path, encoder, monkeypatch):
    rows = [{"prompt": f"ask {number}", "completion": f"reply {number}"} for number in range(6)]
    source = written(tmp_path / "a.jsonl", rows)

    def read_twice(room: int) -> int:
        """Rows that are encoded in two epochs."""
        monkeypatch.setattr(dataset_module, "_CACHED_BYTES", room)
        train, _ = open_source(DataSettings.of(source=source, held_out=0), encoder)
        encoded, encode = [], train._encode
        monkeypatch.setattr(train, "_encode", lambda number: encoded.append(number) or encode(number))
        first = [train[index] for index in range(6)]
        assert [train[index] for index in range(6)] == first
        return len(encoded) + 1  # open_source reads the first row

    assert read_twice(2**28) == 6
    assert read_twice(0) == 13
    assert 6 < read_twice(1500) < 13


@pytest.fixture
def corpus(monkeypatch):
    """A stand-in for the corpus. Each prompt is the arguments of the call."""
    problem = namedtuple("problem", "prompt answer")
    tasks, package = types.ModuleType("nbdiff_engine.tasks"), types.ModuleType("training.corpus.problems")
    tasks.DOMAINS = ("add", "sort", "date")
    package.PARTS = tasks.DOMAINS
    package.example = lambda domain, split, index, seed=0: problem(f"{domain} {split} {index} {seed}", "Yes.")
    monkeypatch.setitem(sys.modules, "nbdiff_engine.tasks", tasks)
    monkeypatch.setitem(sys.modules, "training.corpus.problems", package)


def test_the_corpus_is_endless_and_draws_its_domains_by_weight(corpus, encoder):
    source = CorpusSource("train", 3, {"add": 1, "date": 3}, encoder)
    assert len(source) == ENDLESS
    last = ENDLESS - 1
    assert source[last] == encoder.encode_pair(f"{source.domain(last)} train {last} 3", "Yes.")
    drawn = Counter(source.domain(index) for index in range(4000))
    assert drawn["sort"] == 0
    assert 900 < drawn["add"] < 1100
    assert {CorpusSource("train", 3, None, encoder).domain(index) for index in range(50)} == {"add", "sort", "date"}
    with pytest.raises(IndexError):
        source[ENDLESS]


def test_the_corpus_holds_out_its_test_split(corpus, encoder):
    train, held_out = open_source(DataSettings.of(source="corpus", held_out=5, seed=2, weights={"sort": 1}), encoder)
    assert train[0] == encoder.encode_pair("sort train 0 2", "Yes.")
    assert held_out[0] == encoder.encode_pair("sort test 0 2", "Yes.")
    assert (len(train), len(held_out)) == (ENDLESS, 5)
    with pytest.raises(DataError, match="no domain 'chess'; it has add, sort, date"):
        open_source(DataSettings.of(source="corpus", held_out=0, weights={"chess": 1}), encoder)
