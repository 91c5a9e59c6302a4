"""What an export replaces, and what it leaves as it is."""

from pathlib import Path

import pytest

from training.errors import RunError
from training.sharing.export_target import publish_export


def writer(text: str = "weights"):
    def write(folder: Path) -> None:
        (folder / "model.bin").write_text(text)

    return write


def not_written(folder: Path) -> None:
    raise AssertionError("nothing may be written")


def test_an_older_export_is_replaced(tmp_path):
    publish_export(tmp_path / "nano-hf", writer("old"))
    (tmp_path / "nano-hf").rename(tmp_path / "nano-hf.retired")  # as a killed export leaves it
    publish_export(tmp_path / "nano-hf", writer("older"))
    publish_export(tmp_path / "nano-hf", writer("new"))
    assert (tmp_path / "nano-hf" / "model.bin").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["nano-hf"]


@pytest.mark.parametrize("name", ["nano-hf", "nano-hf.retired"])
@pytest.mark.parametrize("manifest", [None, "{", '{"name": "a page", "files": []}'])
def test_a_folder_that_no_export_has_written_is_not_replaced(tmp_path, name, manifest):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "important.txt").write_text("keep")
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    with pytest.raises(RunError, match=rf"{name} is a folder without an export's manifest\.json, so"):
        publish_export(tmp_path / "nano-hf", not_written)
    assert (folder / "important.txt").read_text() == "keep"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["nano-hf", "nano-hf.retired"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_a_file_or_a_link_is_refused_and_later_exports_work(tmp_path, name, kind):
    path, other = tmp_path / name, tmp_path / "other"
    if kind == "file":
        path.write_text("keep")
    else:
        path.symlink_to(other)
    if kind == "link":
        publish_export(other, writer("keep"))
    with pytest.raises(RunError, match=rf"{name} is a (file|link), so an export does not replace it; move it away"):
        publish_export(tmp_path / "nano-hf", not_written)
    assert path.is_symlink() or path.read_text() == "keep"
    path.unlink()
    publish_export(tmp_path / "nano-hf", writer())
    publish_export(tmp_path / "nano-hf", writer())
    assert not (tmp_path / "nano-hf.retired").exists()


def test_a_folder_that_cannot_be_created_and_a_file_that_disappears_have_a_sentence_each(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written to .*file/nano-hf \(.*; choose another --output\."):
        publish_export(tmp_path / "file" / "nano-hf", not_written)
    with pytest.raises(RunError, match="cannot be written to /proc/foo/nano-hf"):
        publish_export(Path("/proc/foo/nano-hf"), not_written)
    with pytest.raises(RunError, match=r"gone disappeared during the export; if the run continues"):
        publish_export(tmp_path / "nano-hf", lambda folder: (tmp_path / "gone").read_text() and None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
