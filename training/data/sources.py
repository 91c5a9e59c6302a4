"""From the name of a source to its rows: files and folders on disk first, then the hub. No code of a data set is run.

Rows are read through the `datasets` library and kept in its cache, from which a file that has changed since is
read anew. A .txt file holds one document a block of lines: blank lines stand between documents.
"""

import csv
import glob
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from datasets.exceptions import DatasetGenerationCastError, DatasetNotFoundError
from huggingface_hub import constants

from nbdiff_engine.errors import brief, brief_text
from nbdiff_engine.model.checkpoint_folders import HUB_ID, HUB_REPLY_SECONDS
from training.data.data_settings import CORPUS, SELF, DataSettings
from training.errors import DataError
from training.failure_kind import FailureKind

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_KNOWN = ", ".join(READERS)


def load_rows(settings: DataSettings) -> datasets.Dataset:
    """The rows of a file, a folder of files or a hub data set. Raises DataError with one sentence."""
    source = settings.source
    if source in (CORPUS, SELF):
        raise DataError(f"The source {source!r} has no rows to load; it writes its documents itself.")
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, of a user who is not there, or with a NUL in it
        is_folder = is_file = False
    if is_folder:
        rows = _from_files(_files_of(path), source, settings)
    elif is_file:
        if path.suffix.lower() not in READERS:
            raise DataError(f"{source} is of a kind that is not read here; give a file of {_KNOWN}.")
        rows = _from_files([path], source, settings)
    elif HUB_ID.fullmatch(source) and not source.lower().endswith(tuple(READERS)):
        rows = _from_hub(settings)
    elif source.lower().endswith(tuple(READERS)):
        raise DataError(f"There is no file {brief_text(source, 200)}.", FailureKind.MISSING_FILE)
    else:
        raise DataError(
            f"No data {brief(source)}: not a file, not a folder, and not a hub id (owner/name); "
            f'or use "{CORPUS}" for the problems of this project.',
            FailureKind.MISSING_FILE,
        )
    if not len(rows):
        raise DataError(f"{source} holds no rows, so there is nothing to train on.")
    return rows if settings.limit is None else rows.select(range(min(settings.limit, len(rows))))


def _files_of(folder: Path) -> list[Path]:
    """The files of a folder and its subfolders, in the order of their names; all are of one kind."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in READERS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"The folder {folder} holds no file of {_KNOWN}.")
    other = next((path for path in files if _reader(path) != _reader(files[0])), None)
    if other is not None:
        raise DataError(
            f"The folder {folder} holds files of several kinds, such as {files[0].name} and {other.name}; "
            "keep one kind in it, or give a single file."
        )
    return files


def _reader(path: Path) -> str:
    return READERS[path.suffix.lower()]


def _from_files(files: list[Path], source: str, settings: DataSettings) -> datasets.Dataset:
    if settings.subset is not None:
        raise DataError(f"subset is {brief(settings.subset)}, but {source} is on disk and has none; leave it out.")
    if re.split(r"[\[+]", settings.split)[0] != "train":
        raise DataError(f"split is {brief(settings.split)}, but {source} is on disk and has only 'train'.")
    for path in files:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.")
    reader = _reader(files[0])
    try:
        with _quiet_datasets():
            return datasets.load_dataset(
                reader,
                data_files=[glob.escape(str(path.resolve())) for path in files],
                split=settings.split,
                **_reader_options(reader, files),
            )
    except Exception as error:  # readers over files of anyone's: there is no list of what they can raise
        raise _why_not(files, source, error) from error


def _reader_options(reader: str, files: list[Path]) -> dict[str, Any]:
    """Keyword arguments of load_dataset that keep text as it is written."""
    if reader == "json":
        return {"parse_agent_traces": False}
    if reader == "text":
        return {"sample_by": "paragraph"}
    if reader == "csv":
        with files[0].open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file), [])
        # Otherwise an answer "42" becomes a number, and an answer "None" a hole.
        text = datasets.Features({name: datasets.Value("string") for name in names})
        return {"features": text, "keep_default_na": False, "encoding": "utf-8-sig"}
    return {}


def _why_not(files: list[Path], source: str, error: Exception) -> DataError:
    """What is wrong with files that could not be read."""
    for path in files:
        problem = _broken_text(path) if _reader(path) != "parquet" else None
        if problem is None and _reader(path) == "json":
            problem = _broken_json(path)
        if problem is not None:
            return DataError(problem, FailureKind.BAD_ROW)
    if isinstance(error, DatasetGenerationCastError):
        return DataError(f"The files of {source} do not have the same columns, or not of the same types.")
    if "corresponds to no data" in str(error):
        return DataError(f"{source} holds no rows, so there is nothing to train on.")
    cause = error.__cause__ or error
    return DataError(f"{source} cannot be read as {_reader(files[0])}: {_one_line(cause)}")


def _broken_text(path: Path) -> str | None:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"Line {number} of {path} is not UTF-8 text; save the file as UTF-8."
    return None


def _broken_json(path: Path) -> str | None:
    """What is wrong with a file of JSON, by its line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            rows = enumerate(json.loads(text), start=1)
            wrong = next((number for number, row in rows if not isinstance(row, dict)), None)
            return wrong and f"Row {wrong} of {path} is no JSON object."
    except (ValueError, RecursionError) as error:
        return f"Line {getattr(error, 'lineno', 1)} of {path} is not JSON: {_one_line(error)}"
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"Line {number} of {path} is not JSON: {_one_line(error)}"
        if not isinstance(row, dict):
            return f"Line {number} of {path} is no JSON object; a row is {{column: value}}."
    return None


def _from_hub(settings: DataSettings) -> datasets.Dataset:
    """The rows of a hub data set, from the local cache where the hub is not to be had."""
    name = settings.source
    why_offline = None
    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        why_offline = "HF_HUB_OFFLINE is set"
    else:
        try:
            # The client itself retries for most of a minute; one short question tells whether anyone is there.
            huggingface_hub.utils.get_session().head(constants.ENDPOINT, timeout=HUB_REPLY_SECONDS)
        except Exception:
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
    except Exception as error:  # foreign data, and the library's many ways to say so
        raise DataError(f"The data set {name!r} cannot be loaded: {_one_line(error)}") from error


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Have `datasets` look in its cache alone."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Hold back the library's own report of a load; ours is the sentence that is raised, or nothing."""
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
    """An error's text on one line: those of `datasets` say the most on their second."""
    return brief_text(" ".join((str(error) or type(error).__name__).split()), 240)
