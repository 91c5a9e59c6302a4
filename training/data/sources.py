"""From the name of a source to its rows: files and folders on disk first, then the hub. No code of a data set is run.

The `datasets` library reads the rows and caches them; a file that has changed is read again. The documents of a .txt
file are separated by blank lines.
"""

import csv
import glob
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationCastError, DatasetNotFoundError
from huggingface_hub import constants

from nbdiff_engine.errors import brief, brief_text
from nbdiff_engine.model.hub_checkpoints import HUB_ID, hub_answers
from training.data.bad_rows import BadRows
from training.data.data_settings import CORPUS, SELF, DataSettings
from training.data.file_kinds import PACKED, READERS, ZIP, ending_of, reader_of
from training.data.plain_files import delimiter_of, rows_of_object, unpacked, without_bad_lines
from training.data.zip_files import SAVED, unzipped
from training.errors import DataError
from training.failure_kind import FailureKind

logger = logging.getLogger(__name__)

_KNOWN = f"{', '.join(READERS)} (also with {' or '.join(PACKED)})"
_KNOWN_FILES = f"{_KNOWN}, or a {ZIP} of them"
_LARGE = 10**9  # bytes; reading more takes longer than some seconds
_NO_DATA = ("license", "licence", "readme", "notice", "copying", "changelog", "dataset_info", "dataset_infos")


def load_rows(settings: DataSettings) -> datasets.Dataset:
    """The rows of a file, a folder of files or a hub data set. Raises DataError, one sentence."""
    source = settings.source
    if source in (CORPUS, SELF):
        raise DataError(f"The source {source!r} has no rows to load; its documents are generated.")
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # a path that is too long, of an unknown user, or with a NUL
        is_folder = is_file = False
    if is_folder:
        rows = _from_folder(path, path, settings)
    elif is_file and path.suffix.lower() == ZIP:
        rows = _from_folder(unzipped(path), path, settings)
    elif is_file:
        if reader_of(path) is None:
            raise DataError(f"{source} is a file of an unsupported kind; give a file of {_KNOWN_FILES}.")
        rows = _from_files([path], [path], settings)
    elif HUB_ID.fullmatch(source) and ending_of(source) is None:
        rows = _from_hub(settings)
    elif ending_of(source[-200:]) is not None:
        raise DataError(f"There is no file {brief_text(source, 200)}.", FailureKind.MISSING_FILE)
    else:
        raise DataError(
            f"There is no data {brief(source)}: it is not a file, not a folder, and not a hub id (owner/name); "
            f'give one of these, or "{CORPUS}" for the problems of this project.',
            FailureKind.MISSING_FILE,
        )
    if not len(rows):
        raise DataError(f"{source} contains no rows, so there is nothing to train on.")
    return rows if settings.limit is None else rows.select(range(min(settings.limit, len(rows))))


def _from_folder(folder: Path, shown: Path, settings: DataSettings) -> datasets.Dataset:
    """The rows of a folder. shown: its name in errors, for the folder of a zip file the name of that file."""
    if any((folder / name).is_file() for name in SAVED):
        return _from_saved(folder, shown, settings)
    files = _files_of(folder, shown)
    return _from_files(files, [shown / path.relative_to(folder) for path in files], settings)


def _files_of(folder: Path, shown: Path) -> list[Path]:
    """The files of a folder and its subfolders, sorted by path. Raises DataError unless all are of one kind."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if reader_of(path) is not None
        and path.is_file()
        and path.stem.lower() not in _NO_DATA
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"{shown} contains no file of {_KNOWN}.")
    other = next((path for path in files if reader_of(path) != reader_of(files[0])), None)
    if other is not None:
        raise DataError(
            f"{shown} contains files of several kinds, such as {files[0].name} and {other.name}; "
            "keep only one kind, or give a single file."
        )
    return files


def _from_files(files: list[Path], shown: list[Path], settings: DataSettings) -> datasets.Dataset:
    """The rows of files. shown: their names in errors."""
    source = settings.source
    if settings.subset is not None:
        raise DataError(f"subset is {brief(settings.subset)}, but {source} is on disk and has none; leave it out.")
    if re.split(r"[\[+]", settings.split)[0] != "train":
        raise DataError(f"split is {brief(settings.split)}, but {source} is on disk and has only 'train'.")
    for path, name in zip(files, shown, strict=True):
        if path.stat().st_size == 0:
            raise DataError(f"{name} is empty.")
    reader, plain = reader_of(files[0]), [rows_of_object(path) for path in map(unpacked, files, shown)]
    try:
        if reader == "json":  # whose reader stores bytes without a check
            for path, name in zip(plain, shown, strict=True):
                if problem := _text_error(path, name):
                    raise DataError(problem)
        return _loaded(reader, plain, settings)
    except Exception as error:  # the readers may raise any exception for a file of a user
        readable = _without_bad_rows(reader, shown, plain, settings)
        if readable is None:
            raise _load_error(shown, plain, source, error) from error
    try:
        return _loaded(reader, readable, settings)
    except Exception as error:
        raise _load_error(shown, readable, source, error) from error


def _loaded(reader: str, files: list[Path], settings: DataSettings) -> datasets.Dataset:
    size = sum(path.stat().st_size for path in files)
    if size > _LARGE:
        logger.info("%s: %.1f GB are read into the cache, unless they are there already", settings.source, size / 1e9)
    with _quiet_datasets():
        return datasets.load_dataset(
            reader,
            data_files=[glob.escape(str(path.resolve())) for path in files],
            split=settings.split,
            **_reader_options(reader, files),
        )


def _without_bad_rows(reader: str, shown: list[Path], plain: list[Path], settings: DataSettings) -> list[Path] | None:
    """Copies of files of rows without those that cannot be read; None if no row is to blame, or the files have none.

    Raises DataError if there are too many.
    """
    if reader not in ("json", "csv") or (reader == "json" and any(_is_list(path) for path in plain)):
        return None
    bad, rows, copies = BadRows(settings.source, settings.bad_rows), 0, []
    for path, name in zip(plain, shown, strict=True):
        copy, found = without_bad_lines(path, name, bad)
        copies.append(copy)
        rows += found
    bad.check(rows)
    return copies if bad.count else None


def _is_list(path: Path) -> bool:
    """Whether a JSON file is one list of rows, not one row per line."""
    with path.open("rb") as file:
        return file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _from_saved(folder: Path, shown: Path, settings: DataSettings) -> datasets.Dataset:
    """The rows of a folder that `save_to_disk` wrote."""
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library may raise any exception for a folder of a user
        raise DataError(f"{shown} cannot be read as a saved data set: {_one_line(error)}") from error
    if isinstance(found, datasets.DatasetDict):
        if settings.split not in found:
            raise DataError(f"{shown} has no split {settings.split!r}; it has {', '.join(found)}.")
        found = found[settings.split]
    return found


def _reader_options(reader: str, files: list[Path]) -> dict[str, Any]:
    """Keyword arguments of load_dataset with which text is not changed."""
    if reader == "json":
        return {"parse_agent_traces": False}
    if reader == "text":
        return {"sample_by": "paragraph"}
    if reader == "csv":
        mark = delimiter_of(files[0])
        with files[0].open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=mark), [])
        # Without these options, an answer "42" becomes a number and an answer "None" a missing value.
        text = datasets.Features({name: datasets.Value("string") for name in names})
        return {"features": text, "keep_default_na": False, "encoding": "utf-8-sig", "sep": mark}
    return {}


def _load_error(shown: list[Path], plain: list[Path], source: str, error: Exception) -> DataError:
    """The error for files that cannot be read, with the line if it is known. plain: the files, unpacked."""
    for name, path in zip(shown, plain, strict=True):
        problem = _text_error(path, name) if reader_of(path) != "parquet" else None
        if problem is None and reader_of(path) == "json":
            problem = _json_error(path, name)
        if problem is not None:
            return DataError(problem, FailureKind.BAD_ROW)
    if isinstance(error, DatasetGenerationCastError):
        return DataError(f"The files of {source} have different columns, or columns of different types.")
    if "corresponds to no data" in str(error):
        return DataError(f"{source} contains no rows, so there is nothing to train on.")
    cause = error.__cause__ or error
    return DataError(f"{source} cannot be read as {reader_of(plain[0])}: {_one_line(cause)}")


def _text_error(path: Path, shown: Path) -> str | None:
    """The error of a file that is not UTF-8, with its line; None if it is."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"Line {number} of {shown} is not UTF-8 text; save the file as UTF-8."
    return None


def _json_error(path: Path, shown: Path) -> str | None:
    """The error of a JSON file, with its line or row; None if there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            rows = enumerate(json.loads(text), start=1)
            wrong = next((number for number, row in rows if not isinstance(row, dict)), None)
            return wrong and f"Row {wrong} of {shown} is not a JSON object."
    except (ValueError, RecursionError) as error:
        return f"Line {getattr(error, 'lineno', 1)} of {shown} is not JSON: {_one_line(error)}"
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"Line {number} of {shown} is not JSON: {_one_line(error)}"
        if not isinstance(row, dict):
            return f"Line {number} of {shown} is not a JSON object; a row is {{column: value}}."
    return None


def _from_hub(settings: DataSettings) -> datasets.Dataset:
    """The rows of a hub data set, from the local cache if the hub cannot be reached."""
    name = settings.source
    why_offline = None
    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        why_offline = "HF_HUB_OFFLINE is set"
    elif not hub_answers():
        why_offline = "the hub cannot be reached"
    try:
        with _quiet_datasets(), _offline(why_offline is not None):
            return datasets.load_dataset(name, settings.subset, split=settings.split)
    except DatasetNotFoundError as error:
        raise DataError(f"The hub has no public data set {name!r}.") from error
    except ConnectionError as error:
        if why_offline is not None:
            raise DataError(
                f"The data set {name!r} is not in the local cache, and {why_offline}; give a local file instead.",
                FailureKind.MISSING_FILE,
            ) from error
        raise DataError(f"The download of the data set {name!r} failed: {_one_line(error)}") from error
    except Exception as error:  # the library may raise any exception for a data set
        raise DataError(f"The data set {name!r} cannot be loaded: {_one_line(error)}") from error


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Make `datasets` read only its cache, if `wanted`."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Silence the log and the progress bars of `datasets`; errors are reported by the raised sentence."""
    verbosity = datasets.logging.get_verbosity()
    bars = datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _one_line(error: BaseException) -> str:
    """The text of an error on one line. Messages of `datasets` have the details in their second line."""
    return brief_text(" ".join((str(error) or type(error).__name__).split()), 240)
