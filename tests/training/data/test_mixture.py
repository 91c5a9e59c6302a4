"""Several sources with weights and slices, repeated documents, and data larger than the memory."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.training.encoders import LOADED, written
from training.data.data_settings import DataSettings
from training.data.dataset import open_source
from training.data.documents import Document
from training.data.mixture import MixedSource, pattern
from training.data.source_names import SourcePart, parts_of, with_sources
from training.errors import DataError

pytestmark = pytest.mark.usefixtures("cache")


def texts(path, name: str, count: int) -> str:
    return written(path / f"{name}.jsonl", [{"text": f"{name} {number}"} for number in range(count)])


def read(source) -> list[str]:
    return [LOADED.decode(source[index].ids[:-1]) for index in range(len(source))]


class Numbers:
    """Documents that name their source and number."""

    def __init__(self, name: int, count: int):
        self.name, self.count = str(name), count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Document:
        return Document((int(self.name), index), None)


def test_a_text_names_sources_slices_and_weights(tmp_path, monkeypatch):
    assert parts_of(DataSettings(source="a.jsonl:0.7,b.parquet[:10000]:0.3")) == (
        SourcePart("a.jsonl", weight=0.7),
        SourcePart("b.parquet", 0, 10000, 0.3),
    )
    assert parts_of(DataSettings(source="owner/name[5:], c.txt.gz")) == (
        SourcePart("owner/name", 5),
        SourcePart("c.txt.gz"),
    )
    assert parts_of(DataSettings(source="corpus")) == (SourcePart("corpus"),)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b[1:2]").touch()
    assert parts_of(DataSettings(source="a,b[1:2]")) == (SourcePart("a,b[1:2]"),)
    assert with_sources("a.jsonl[:5]:2,b.csv:1", lambda name: f"/x/{name}") == "/x/a.jsonl[:5]:2,/x/b.csv:1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "a.jsonl:0.7,b.jsonl"}, "none to b.jsonl; give a weight to all or to none"),
        ({"source": "a.jsonl:0,b.jsonl:1"}, "The weight of a.jsonl is 0"),
        ({"source": "a.jsonl,,b.jsonl"}, "names an empty source"),
        ({"source": "a.jsonl,corpus"}, "'corpus' is generated"),
        ({"source": "a.jsonl[:5]", "limit": 3}, "data.limit is 3"),
        ({"source": "a.jsonl,b/c", "subset": "x"}, "data.subset is 'x'"),
    ],
)
def test_a_mixture_that_is_not_clear_is_refused(settings, message):
    with pytest.raises(DataError, match=message):
        parts_of(DataSettings(**settings))


def test_without_weights_every_document_of_every_slice_comes_once(tmp_path, encoder):
    a, b = texts(tmp_path, "red", 6), texts(tmp_path, "blue", 5)
    train, held_out = open_source(DataSettings(source=f"{a}[1:4],{b}[3:]", held_out=0), encoder)
    assert sorted(read(train)) == ["blue 3", "blue 4", "red 1", "red 2", "red 3"]
    assert len(held_out) == 0
    assert train.name == "red.jsonl, blue.jsonl"
    with pytest.raises(DataError, match=r"The slice \[9:\] of .*red.jsonl contains no row; it has 6 rows"):
        open_source(DataSettings(source=f"{a}[9:]"), encoder)


def test_weights_are_shares_of_the_documents_and_the_smaller_source_repeats():
    mixed = MixedSource([Numbers(0, 700), Numbers(1, 50)], [0.7, 0.3], "both")
    read = [mixed[index].ids for index in range(len(mixed))]
    assert len(read) == 1000
    assert Counter(name for name, _ in read) == {0: 700, 1: 300}
    assert Counter(name for name, _ in read[:100]) == {0: 70, 1: 30}  # they take turns
    assert sorted(number for name, number in read if name == 0) == list(range(700))
    assert set(Counter(number for name, number in read if name == 1).values()) == {6}
    with pytest.raises(IndexError):
        mixed[1000]


def test_a_small_weight_keeps_its_turn():
    assert Counter(pattern([1e-9, 1]).tolist())[0] == 1


def test_the_split_is_by_content_over_all_sources(tmp_path, encoder):
    rows = [{"prompt": f"number {number}", "completion": "one"} for number in range(60)]
    a = written(tmp_path / "a.jsonl", rows)
    b = written(tmp_path / "b.jsonl", [{**row, "completion": "two"} for row in rows])
    train, held_out = open_source(DataSettings(source=f"{a}:0.5,{b}:0.5", held_out=10), encoder)
    prompts = [{text.split("one")[0].split("two")[0] for text in read(part)} for part in (train, held_out)]
    assert len(held_out) == 10
    assert len(prompts[1]) == 5
    assert not prompts[0] & prompts[1]


def test_repeated_documents_are_left_out_on_request(tmp_path, encoder):
    a = written(tmp_path / "a.jsonl", [{"text": "red cat"}, {"text": "red  cat "}, {"text": "blue dog"}])
    b = written(tmp_path / "b.jsonl", [{"text": "blue dog"}, {"text": "old bird"}])
    both = {"source": f"{a},{b}", "held_out": 0}
    assert len(open_source(DataSettings(**both), encoder)[0]) == 5
    train, _ = open_source(DataSettings(**both, deduplicate=True), encoder)
    assert sorted(read(train)) == ["blue dog", "old bird", "red cat"]


# The growth is measured after a first smaller file, so that libraries and buffers of fixed size are not counted.
_MEASURE = """
import json, sys
import psutil
from tests.training.encoders import EOS, LOADED, MASK
from training.data.data_settings import DataSettings
from training.data.dataset import open_source
from training.data.encoder import Encoder
from training.data.packing import Cursor, Packer

def private():
    found = psutil.Process().memory_info()
    return found.rss - found.shared

encoder = Encoder(LOADED, [EOS], forbidden_ids=[MASK])
grown = []
for source in sys.argv[1:]:
    train, _ = open_source(DataSettings(source=source), encoder)
    packer, cursor = Packer(train, 512, 0, 8), Cursor()
    for _ in range(20):
        _, cursor = packer.batch(cursor, 4)
    grown.append(private())
print(json.dumps(grown))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_size_of_the_file(tmp_path):
    """240 MB more of data take less than a tenth of that in memory: 20 GB take less than 2 GB."""
    line = json.dumps({"text": "the red cat sees an old house and walks to the river " * 75})
    for name, count in (("small", 60_000_000 // len(line)), ("large", 300_000_000 // len(line))):
        with (tmp_path / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                file.write(line.replace("the red", f"the {number}", 1) + "\n")
    files = [str(tmp_path / f"{name}.jsonl") for name in ("small", "large")]
    command = [sys.executable, "-c", _MEASURE, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout)
    small, large = ((tmp_path / f"{name}.jsonl").stat().st_size for name in ("small", "large"))
    print(f"{before / 1e6:.1f} MB, then {after / 1e6:.1f} MB for {(large - small) / 1e6:.0f} MB more of data")
    assert large - small > 230e6
    assert after - before < (large - small) / 10
