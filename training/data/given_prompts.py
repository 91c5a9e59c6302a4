"""Prompts for `--data self`, which the base answers: from a file or from the corpus."""

import json
from pathlib import Path

from nbdiff_engine.decoding.prompts import Prompt
from nbdiff_engine.errors import brief_text
from training.data.data_settings import CORPUS, DataSettings
from training.errors import DataError
from training.failure_kind import FailureKind


def read_prompts(settings: DataSettings) -> list[tuple[str, Prompt]]:
    """The prompts, each with a description of its place for errors; empty if the model writes the prompts.

    A line of a .jsonl file is a string, or an object with a "prompt" or with "messages". Blank lines are skipped.
    Raises DataError for a file or a line that cannot be read.
    """
    source = settings.self_data.prompts
    if source is None:
        return []
    if source == CORPUS:
        from nbdiff_engine.tasks import DOMAINS
        from training.corpus.problems import example

        return [
            (f"Prompt {i} of the corpus", example(DOMAINS[i % len(DOMAINS)], "train", i, settings.seed).prompt)
            for i in range(settings.self_data.documents)
        ]
    path = Path(source).expanduser()
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise DataError(f'The prompts {brief_text(source, 200)} are not a .txt or .jsonl file, and not "{CORPUS}".')
    try:
        lines = path.read_bytes().split(b"\n")
    except (OSError, ValueError) as error:
        raise DataError(f"The prompts cannot be read from {brief_text(source, 200)}: {error}.") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        where = f"Line {number} of {path}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is not UTF-8 text; save the file as UTF-8.", FailureKind.BAD_ROW) from error
        if text:
            prompts.append((where, _from_json(text, where) if path.suffix.lower() == ".jsonl" else text))
    if not prompts:
        raise DataError(f"{path} contains no prompt; write one per line, or leave out self_data.prompts.")
    return prompts


def _from_json(text: str, where: str) -> Prompt:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {brief_text(str(error), 160)}.", FailureKind.BAD_ROW) from error
    if isinstance(value, dict):
        value = value.get("prompt", value.get("messages"))
    elif isinstance(value, list):
        value = None
    if not isinstance(value, (str, list)) or (isinstance(value, list) and not all(isinstance(x, dict) for x in value)):
        raise DataError(
            f'{where} contains no prompt; a line is a string, or an object with a "prompt" or "messages".',
            FailureKind.BAD_ROW,
        )
    return value
