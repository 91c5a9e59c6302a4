"""Files as `datasets` can read them: unpacked, and without the lines that it would refuse a whole file for.

The copies lie in the cache of `datasets`, under a name that depends on the file, its size and its time. What a file
unpacks to is limited, so that a small file cannot fill the disk.
"""

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import datasets
import pyarrow as pa

from nbdiff_engine.errors import brief_text
from training.data.bad_rows import BadRows
from training.data.file_kinds import PACKED, reader_of
from training.errors import DataError

_DELIMITERS = ",;\t|"
_ALWAYS_ALLOWED, _MOST_TIMES = 2**30, 100  # bytes, and times the packed size: text packs by a factor of 3 to 30
_PIECE = 2**20


class Allowance:
    """How many bytes a packed file may still unpack to: 1 GiB, or 100 times its size if that is more."""

    def __init__(self, path: Path, shown: Path):
        self.shown = shown
        self.most = self.left = max(_ALWAYS_ALLOWED, _MOST_TIMES * path.stat().st_size)

    def copy(self, source: BinaryIO, target: BinaryIO) -> None:
        """Copy a stream to its end. Raises DataError if it is longer than what is left."""
        while piece := source.read(_PIECE):
            self.left -= len(piece)
            if self.left < 0:
                raise DataError(
                    f"{self.shown} unpacks to more than {self.most / 2**30:.3g} GiB, far more than text does; unpack "
                    "it yourself, and give the file or folder."
                )
            target.write(piece)


def unpacked(path: Path, shown: Path) -> Path:
    """The file, or an unpacked copy of a .gz or .zst file. shown: its name in errors.

    Raises DataError if it cannot be unpacked, or unpacks to too much.
    """
    packing = PACKED.get(path.suffix.lower())
    if packing is None:
        return path
    copy = place_of_copy(path, Path(path.stem).suffix, "unpacked")
    if not copy.exists():
        try:
            with pa.CompressedInputStream(pa.OSFile(str(path)), packing) as source, _written(copy) as target:
                Allowance(path, shown).copy(source, target)
        except (OSError, ValueError) as error:
            raise DataError(f"{shown} cannot be unpacked: {brief_text(str(error), 160)}.") from error
    return copy


def rows_of_object(path: Path) -> Path:
    """The file, or for a .json file of one object that holds its rows, such as {"data": [...]}, a JSON Lines copy.

    The rows are the only list of objects in it. An object with messages or tools is a row itself.
    """
    if path.suffix.lower() != ".json" or not _is_one_object(path):
        return path
    copy = place_of_copy(path, ".jsonl", "rows")
    if not copy.exists():
        try:
            whole = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError):  # reported when the file is read
            return path
        lists = [value for key, value in whole.items() if key.lower() != "tools" and _is_list_of_rows(value)]
        if len(lists) != 1:
            return path
        with _written(copy) as target:
            target.writelines(json.dumps(row).encode() + b"\n" for row in lists[0])
    return copy


def _is_one_object(path: Path) -> bool:
    """Whether a JSON file begins with an object, and its first line alone is not a row of several."""
    with path.open("rb") as file:
        lines = (line for line in file if line.strip(b"\xef\xbb\xbf \t\r\n"))
        first = next(lines, b"").removeprefix(b"\xef\xbb\xbf").lstrip()
        if not first.startswith(b"{"):
            return False
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            return True
        return next(lines, None) is None


def _is_list_of_rows(value: object) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        return False
    return not all(isinstance(each.get("role", each.get("from")), str) for each in value)


def without_bad_lines(path: Path, shown: Path, bad: BadRows) -> tuple[Path, int]:
    """A copy of a JSON Lines or CSV file without the rows that cannot be read, and the number of all rows.

    shown: the name of the file in errors. Adds the rows that are left out to `bad`.
    """
    copy = place_of_copy(path, path.suffix, "readable")
    rows = 0
    with _written(copy) as target:
        for line, problem in _csv_rows(path) if reader_of(path) == "csv" else _json_lines(path):
            rows += 1
            if problem is None:
                target.write(line)
            else:
                bad.add(problem.format(shown))
    return copy, rows


def _json_lines(path: Path) -> Iterator[tuple[bytes, str | None]]:
    """The lines of a file with what is wrong with each, with {} for the file; blank lines are skipped."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            problem = None
            try:
                if not isinstance(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")), dict):
                    problem = f"Line {number} of {{}} is not a JSON object; a row is {{{{column: value}}}}."
            except UnicodeDecodeError:
                problem = f"Line {number} of {{}} is not UTF-8 text; save the file as UTF-8."
            except json.JSONDecodeError as error:
                problem = f"Line {number} of {{}} is not JSON: {error.msg} at character {error.pos + 1}."
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
                reason = brief_text(str(error), 160).rstrip(".").replace("{", "{{").replace("}", "}}")
                problem = f"Line {number} of {{}} is not JSON: {reason}."
            yield line.rstrip(b"\r\n") + b"\n", problem


def _csv_rows(path: Path) -> Iterator[tuple[bytes, str | None]]:
    """As `_json_lines`, for the rows of a CSV file; the header is the first."""
    mark = delimiter_of(path)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader, names = csv.reader(file, delimiter=mark), None
        start = 1
        for row in reader:
            names = names or row
            problem = None
            if any("\udc80" <= letter <= "\udcff" for value in row for letter in value):
                problem = f"Line {start} of {{}} is not UTF-8 text; save the file as UTF-8."
            elif row and len(row) > len(names):
                problem = f"Line {start} of {{}} has {len(row)} values, but the first line {len(names)}."
            start = reader.line_num + 1
            if row:
                yield _csv_line(row, mark), problem


def _csv_line(row: list[str], mark: str) -> bytes:
    quoted = ('"' + value.replace('"', '""') + '"' for value in row)
    return (mark.join(quoted) + "\n").encode("utf-8", "surrogateescape")


def delimiter_of(path: Path) -> str:
    """The character between the columns of a CSV file: the most frequent of , ; tab | in its first line."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
    return max(_DELIMITERS, key=first.count)


def place_of_copy(path: Path, suffix: str, what: str) -> Path:
    """Where the copy of a file is, or will be. what: says which of its copies."""
    found = path.stat()
    name = hashlib.sha256(f"{path.resolve()} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:24]
    return Path(datasets.config.HF_DATASETS_CACHE) / f"nbdiff-{what}" / f"{name}{suffix}"


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A new file under a temporary name, which takes its place when the `with` block ends without an error."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
