"""The first look at data: rows, columns and format in one sentence."""

import json
from pathlib import Path

import pytest

from training.data.data_settings import DataSettings
from training.data.first_look import first_look
from training.errors import DataError


def written(folder: Path, *rows: dict) -> str:
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_known_columns_are_named_with_their_format(tmp_path: Path) -> None:
    source = written(tmp_path, {"prompt": "a", "completion": "b", "id": 1}, {"prompt": "c", "completion": "d", "id": 2})
    found = first_look(DataSettings.of(source=source))
    assert str(found) == "2 rows of prompts with answers, read from the columns prompt, completion."
    assert found.columns == ("prompt", "completion", "id")


def test_unknown_columns_are_left_to_the_person(tmp_path: Path) -> None:
    source = written(tmp_path, {"frage": "a", "antwort": "b"})
    found = first_look(DataSettings.of(source=source))
    assert found.format is None
    assert str(found) == "1 row with the columns frage, antwort. Choose which of them to read."
    named = first_look(DataSettings.of(source=source, columns={"prompt": "frage", "completion": "antwort"}))
    assert named.format.kind == "prompt"


def test_data_that_cannot_be_read_raises_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match="is not JSON"):
        first_look(DataSettings.of(source=str(tmp_path / "data.jsonl")))
