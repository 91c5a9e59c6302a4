"""A zip of data files, or of a folder of `save_to_disk`, is read as the folder; others are refused in one sentence."""

import gzip
import json
import stat
import zipfile
from pathlib import Path

import datasets
import pytest

from training.data import plain_files, zip_files
from training.data.data_settings import DataSettings
from training.data.sources import load_rows
from training.errors import DataError

ROWS = [{"text": "one"}, {"text": "two"}]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A new cache for every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    return folder


def zipped(path: Path, entries: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def texts(path: Path, **settings) -> list[str]:
    return load_rows(DataSettings.of(source=str(path), **settings))["text"]


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        texts(path)
    assert "\n" not in str(caught.value)
    assert "cache" not in str(caught.value)  # the zip file is named, not the place of its copy
    return str(caught.value)


def test_a_zip_of_data_files_is_read_as_their_folder(tmp_path, cache):
    packed = gzip.compress(b'{"text": "three"}')
    path = zipped(tmp_path / "my.ZIP", {"my/b.jsonl": "\n".join(map(json.dumps, ROWS)), "my/LICENSE.txt": "no data"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("my/c.jsonl.gz", packed)
        archive.writestr("__MACOSX/my/._b.jsonl", "no data")
        archive.writestr("my/run.exe", "no data")
        link = zipfile.ZipInfo("my/d.jsonl")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert texts(path) == ["one", "two", "three"]
    names = {each.name for each in (cache / "nbdiff-unzipped").rglob("*") if each.is_file()}
    assert names == {"b.jsonl", "c.jsonl.gz", "LICENSE.txt"}


@pytest.mark.parametrize("inner", ["", "saved/"])
def test_a_zip_of_a_saved_data_set_is_read(tmp_path, inner):
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "saved")
    files = [each for each in (tmp_path / "saved").rglob("*") if each.is_file()]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for each in files:
            archive.write(each, inner + each.relative_to(tmp_path / "saved").as_posix())
    assert texts(tmp_path / "a.zip") == ["one", "two"]
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        texts(tmp_path / "a.zip", split="test")


def test_a_zip_that_changed_is_read_again(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.jsonl": '{"text": "one"}'})
    assert texts(path) == texts(path) == ["one"]
    zipped(path, {"a.jsonl": '{"text": "another"}'})
    assert texts(path) == ["another"]


@pytest.mark.parametrize("name", ["../a.jsonl", "/a.jsonl", "x/../../a.jsonl", "..\\a.jsonl", "C:\\a.jsonl"])
def test_no_file_of_a_zip_leaves_its_folder(tmp_path, cache, name):
    path = zipped(tmp_path / "a.zip", {"good.jsonl": '{"text": "a"}', name: '{"text": "b"}'})
    assert "a.zip names a place outside its folder" in error_of(path)
    assert not [each for each in tmp_path.parent.rglob("*.jsonl") if each.stat().st_mtime >= path.stat().st_mtime]
    assert list((cache / "nbdiff-unzipped").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK no zip", "a.zip cannot be unpacked: File is not a zip file"),
        ({"a.jsonl": '{"text": "a"}\n{"text"'}, "Line 2 of .*a.zip/a.jsonl is not JSON"),
        ({"x/a.jsonl": "", "x/b.jsonl": "x"}, "a.zip/a.jsonl is empty"),
        ({"a.jsonl": "{}", "b.csv": "text\na"}, "a.zip contains files of several kinds, such as a.jsonl and b.csv"),
        ({"a.md": "text"}, "a.zip contains no file of .jsonl"),
        ({}, "a.zip contains no file of .jsonl"),
    ],
)
def test_the_error_for_a_wrong_zip_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "a.zip"
    path.write_bytes(content) if isinstance(content, bytes) else zipped(path, content)
    with pytest.raises(DataError, match=sentence):
        texts(path)
    assert error_of(path)


def test_an_encrypted_zip_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.jsonl": '{"text": "a"}'})
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of both headers
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    assert "a.zip is encrypted" in error_of(path)


def test_a_packed_file_may_not_unpack_to_far_more_than_text(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(plain_files, "_ALWAYS_ALLOWED", 2**20)
    rows = "\n".join(['{"text": "same"}'] * 200_000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    paths = [zipped(tmp_path / "a.zip", {"a.jsonl": rows[: len(rows) // 2], "b.jsonl": rows[len(rows) // 2 :]})]
    for path in (*paths, tmp_path / "a.jsonl.gz"):
        assert f"{path.name} unpacks to more than" in error_of(path)
    assert not [each for each in cache.rglob("*") if each.is_file()]


def test_the_number_of_files_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_files, "_MOST_FILES", 2)
    path = zipped(tmp_path / "a.zip", {f"{number}.jsonl": '{"text": "a"}' for number in range(3)})
    assert "a.zip holds 3 files; at most 2 are read" in error_of(path)
