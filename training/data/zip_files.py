"""A zip file as a folder in the cache of `datasets`, for a folder of data files, or one of `save_to_disk`.

Only files of data are taken out, each to a place inside the folder.
"""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from nbdiff_engine.errors import brief_text
from training.data.file_kinds import reader_of
from training.data.plain_files import Allowance, place_of_copy
from training.errors import DataError

SAVED = ("state.json", "dataset_dict.json")  # a folder with one of them was written by `save_to_disk`
_MOST_FILES = 20_000


def unzipped(path: Path) -> Path:
    """The folder with the content of a zip file: if it holds one folder alone, that one.

    Raises DataError if it cannot be unpacked, names places outside the folder, or unpacks to too much.
    """
    folder = place_of_copy(path, "", "unzipped")
    if not folder.is_dir():
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
        try:
            temporary.mkdir(parents=True)
            _extract(path, temporary)
            _move(temporary, folder)
        except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(
                f"{path} cannot be unpacked: {brief_text(str(error) or type(error).__name__, 160)}."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    while len(inside := list(folder.iterdir())) == 1 and inside[0].is_dir():
        folder = inside[0]
    return folder


def _move(temporary: Path, folder: Path) -> None:
    """Give a folder its place, unless another process, which was faster, has put the same there."""
    try:
        temporary.replace(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _extract(path: Path, folder: Path) -> None:
    """Take the data files out of a zip file."""
    allowance = Allowance(path, path)
    with zipfile.ZipFile(path) as archive:
        for entry in (taken := [each for each in archive.infolist() if _is_data(each)]):
            place = PurePosixPath(entry.filename.replace("\\", "/"))
            if place.is_absolute() or PureWindowsPath(entry.filename).drive or ".." in place.parts:
                raise DataError(
                    f"{path} names a place outside its folder, {brief_text(entry.filename, 80)}, so nothing of "
                    "it is read; pack the folder again."
                )
            if entry.flag_bits & 1:
                raise DataError(f"{path} is encrypted; unpack it yourself, and give the folder.")
        if len(taken) > _MOST_FILES:
            raise DataError(f"{path} holds {len(taken):,} files; at most {_MOST_FILES:,} are read.")
        for entry in taken:
            target = folder / PurePosixPath(entry.filename.replace("\\", "/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as file:
                allowance.copy(source, file)


def _is_data(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a file that can be data, or belongs to a folder of `save_to_disk`."""
    place = PurePosixPath(entry.filename.replace("\\", "/"))
    link = stat.S_ISLNK(entry.external_attr >> 16)
    hidden = "__MACOSX" in place.parts or place.name.startswith(".")
    return not (entry.is_dir() or link or hidden) and (reader_of(Path(place)) is not None or place.suffix == ".arrow")
