"""Settings for documents that a base writes, and the file of those documents."""

import json
from pathlib import Path

from training.data.data_settings import DataSettings
from training.data.self_generated import write_self_data

COUNT, TOKENS = 10, 24


def of(seed: int = 0, **self_data) -> DataSettings:
    fields = {"documents": COUNT, "max_new_tokens": TOKENS, **self_data}
    return DataSettings.of(source="self", held_out=3, seed=seed, self_data=fields)


def write(model, settings: DataSettings, folder: Path, **options) -> Path:
    return write_self_data(model, settings, folder, progress=False, **options)


def documents(file: Path) -> list[tuple[list[int], list | None]]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(line["ids"], line["turns"]) for line in lines]
