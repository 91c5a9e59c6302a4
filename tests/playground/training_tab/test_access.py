"""What a visitor may train from and on."""

from pathlib import Path

import pytest
from gradio_client import utils as client_utils

from nbdiff_engine import NBDiffError
from playground.options import ServerOptions
from playground.server.loaded_models import LoadedModels
from playground.training_tab.access import UPLOADS, Access
from training.data.file_kinds import ending_of
from training.jobs import Jobs


def access_to(tmp_path: Path, *roots: Path) -> Access:
    return Access(LoadedModels(ServerOptions()), ServerOptions(model_roots=roots), Jobs(tmp_path))


@pytest.mark.parametrize("name", ["my.tsv", "MY.JSONL.GZ", "my.csv.zst", "my.txt", "my.zip"])
def test_every_kind_of_file_that_is_read_can_be_uploaded(tmp_path: Path, name: str) -> None:
    file, access = tmp_path / name, access_to(tmp_path)
    file.write_bytes(b"x")
    path = Path(access.data(access.upload(file)[0]))
    assert path.read_bytes() == b"x"
    assert path.name.lower() == name.lower()
    assert ending_of(path.name) is not None
    assert client_utils.is_valid_file(str(file), list(UPLOADS))  # by Gradio, before the upload


@pytest.mark.parametrize("name", ["x.exe", "x.exe.gz", "x.gz", "jsonl"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"x")
    with pytest.raises(NBDiffError, match="cannot be read as data; upload one of"):
        access_to(tmp_path).upload(file)


def test_a_base_folder_must_be_inside_an_allowed_root(tmp_path: Path) -> None:
    (tmp_path / "root" / "model").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    access = access_to(tmp_path, tmp_path / "root")
    assert access.base("model") == str(tmp_path / "root" / "model")
    for outside in (str(tmp_path / "outside"), "../outside"):
        with pytest.raises(NBDiffError):
            access.base(outside)
