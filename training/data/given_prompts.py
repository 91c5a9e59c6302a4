"""Prompts for `--data self`, which the base answers: from data in any format, without its answers, or generated."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbdiff_engine.errors import brief_text
from training.data.bad_rows import BadRows
from training.data.conversations import Conversation
from training.data.data_settings import CHAT, CORPUS, DataSettings
from training.data.formats import prompt_of
from training.data.sources import load_rows
from training.errors import DataError


def read_prompts(settings: DataSettings) -> list[tuple[str, str | Conversation]]:
    """The prompts, each with a description of its place for errors; empty if the model writes the prompts.

    A .txt file has one prompt per line. A line of a .jsonl file may also be a string. A conversation ends at the last
    message that the assistant has to answer. Raises DataError for data that cannot be read, or too many bad rows.
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
    if source == CHAT:
        from training.corpus.chat_prompts import KINDS, chat_prompt

        return [
            (f"Chat prompt {i}", chat_prompt(KINDS[i % len(KINDS)], "train", i, settings.seed))
            for i in range(settings.self_data.documents)
        ]
    bad = BadRows(f"the prompts of {source}", settings.bad_rows)
    kind = Path(source).suffix.lower()
    read = _of_lines(source, kind, bad) if kind in (".txt", ".jsonl") else _of_rows(source, bad)
    prompts = [
        (where, prompt) for where, prompt in read if not isinstance(prompt, str) or prompt.strip() or kind != ".txt"
    ]
    bad.check(len(prompts) + bad.count)
    if not prompts:
        raise DataError(f"{source} contains no prompt; write one per line, or leave out self_data.prompts.")
    return prompts


def _of_rows(source: str, bad: BadRows) -> Iterator[tuple[str, str | Conversation]]:
    for number, row in enumerate(load_rows(DataSettings(source=source)), start=1):
        where = f"Row {number} of {source}"
        try:
            yield where, prompt_of(row)
        except DataError as error:
            bad.add(f"{where} cannot be used. {error}")


def _of_lines(source: str, kind: str, bad: BadRows) -> Iterator[tuple[str, str | Conversation]]:
    path = Path(source).expanduser()
    try:
        lines = path.read_bytes().split(b"\n")
    except (OSError, ValueError) as error:
        raise DataError(f"The prompts cannot be read from {brief_text(source, 200)}: {error}.") from error
    for number, line in enumerate(lines, start=1):
        where = f"Line {number} of {path}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield where, _prompt_in(json.loads(text)) if kind == ".jsonl" else text
        except UnicodeDecodeError:
            bad.add(f"{where} is not UTF-8 text; save the file as UTF-8.")
        except (ValueError, RecursionError) as error:
            bad.add(f"{where} is not JSON: {brief_text(str(error), 160)}.")
        except DataError as error:
            bad.add(f"{where} cannot be used. {error}")


def _prompt_in(value: Any) -> str | Conversation:
    if isinstance(value, dict):
        return prompt_of(value)
    if not isinstance(value, str):
        raise DataError('It contains no prompt; a line is a string, or an object such as {"prompt": ...}.')
    return value
