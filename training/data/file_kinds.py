"""Which files can be data, by the ends of their names. Imports nothing slow, so that the page can list them."""

from pathlib import Path

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "text"}
PACKED = {".gz": "gzip", ".zst": "zstd"}  # may follow any of them
ZIP = ".zip"  # a folder as one file


def ending_of(name: str) -> str | None:
    """The end of a file's name that says how it is read, in lower case, such as ".jsonl.gz"; None: not data."""
    path = Path(name.lower())
    if path.suffix == ZIP:
        return ZIP
    packing = path.suffix if path.suffix in PACKED else ""
    kind = Path(path.name.removesuffix(packing)).suffix
    return kind + packing if kind in READERS else None


def reader_of(path: Path) -> str | None:
    """The reader for a file by its name, without .gz or .zst; None for an unknown kind, and for a zip file."""
    ending = ending_of(path.name)
    return None if ending in (None, ZIP) else READERS[Path(f"x{ending}").suffixes[0]]
