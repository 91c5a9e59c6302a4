"""A first look at data: its rows, its columns, and how a run would read them, before anything is trained."""

from dataclasses import dataclass

from nbdiff_engine.errors import brief_text
from training.data.data_settings import DataSettings
from training.data.formats import Format, detect_format
from training.data.sources import load_rows
from training.errors import DataError

_KINDS = {"text": "plain text", "prompt": "prompts with answers", "messages": "conversations"}
_SHOWN = 8  # column names in a sentence


@dataclass(frozen=True, slots=True)
class FirstLook:
    """format: None if the columns have no usual names; then a person must say which to read."""

    rows: int
    columns: tuple[str, ...]
    format: Format | None

    def __str__(self) -> str:
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}"
        if self.format is None:
            names = ", ".join(map(brief_text, self.columns[:_SHOWN])) + (" ..." if len(self.columns) > _SHOWN else "")
            return f"{rows} with the columns {names}. Choose which of them to read."
        read = [brief_text(each) for each in self.format.all_columns]
        where = f"the column{'' if len(read) == 1 else 's'} {', '.join(read)}"
        return f"{rows} of {_KINDS[self.format.kind]}, read from {where}."


def first_look(settings: DataSettings) -> FirstLook:
    """Read a file, a folder or a hub data set. Raises DataError, one sentence, if it has no rows or cannot be read."""
    rows = load_rows(settings)
    try:
        found = detect_format(rows.column_names, settings)
    except DataError:
        found = None
    return FirstLook(len(rows), tuple(rows.column_names), found)
