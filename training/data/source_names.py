"""The sources that `--data` names: one, or several with slices and weights, `a.jsonl:0.7,b.parquet[:10000]:0.3`.

Imports no reader of data, so that the queue of jobs can use it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from nbdiff_engine.errors import brief
from training.data.data_settings import CHAT, CORPUS, SELF, DataSettings
from training.errors import DataError

_PART = re.compile(r"(?P<source>.+?)(\[(?P<start>\d*):(?P<stop>\d*)\])?(:(?P<weight>\d+(\.\d*)?|\.\d+))?")


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One source of a mixture. start, stop: its rows, counted from 0; stop None: to the last. weight: None without
    weights."""

    source: str
    start: int = 0
    stop: int | None = None
    weight: float | None = None

    def settings(self, settings: DataSettings) -> DataSettings:
        """The settings of the mixture for this source alone."""
        return settings.model_copy(update={"source": self.source})

    def __str__(self) -> str:
        start, stop = self.start or "", "" if self.stop is None else self.stop
        rows = f"[{start}:{stop}]" if self.start or self.stop is not None else ""
        return self.source + rows + ("" if self.weight is None else f":{self.weight:g}")


def parts_of(settings: DataSettings) -> tuple[SourcePart, ...]:
    """The sources that `--data` names; one if it is a plain name, or a path that exists as it is written.

    Raises DataError for a mixture that is not written well, or whose settings fit one source only.
    """
    text = settings.source
    if text in (CORPUS, CHAT, SELF) or _exists(text):
        return (SourcePart(text),)
    parts = tuple(_part(each.strip(), text) for each in text.split(","))
    if parts == (SourcePart(text),):
        return parts
    weighted = [each for each in parts if each.weight is not None]
    if weighted and len(weighted) < len(parts):
        without = next(each.source for each in parts if each.weight is None)
        raise DataError(
            f"{brief(text)} gives a weight to some sources, but none to {without}; give a weight to all or to none."
        )
    for each in parts:
        if each.source in (CORPUS, CHAT, SELF):
            raise DataError(f"{each.source!r} is generated and cannot be part of a mixture; give files or hub sets.")
        if each.weight == 0:
            raise DataError(f"The weight of {each.source} is 0; leave the source out.")
    if settings.limit is not None:
        raise DataError(
            f"data.limit is {settings.limit}, but {brief(text)} names slices or several sources; slice each."
        )
    if settings.subset is not None:
        raise DataError(f"data.subset is {brief(settings.subset)}, which a mixture cannot give to one source only.")
    return parts


def _part(text: str, whole: str) -> SourcePart:
    found = _PART.fullmatch(text)
    if found is None:
        raise DataError(f"{brief(whole)} names an empty source; write source[start:stop]:weight, separated by commas.")
    start, stop, weight = found["start"], found["stop"], found["weight"]
    if _exists(text):  # a name that ends like a slice or a weight
        return SourcePart(text)
    return SourcePart(
        found["source"],
        int(start) if start else 0,
        int(stop) if stop else None,
        float(weight) if weight is not None else None,
    )


def with_sources(text: str, change: Callable[[str], str]) -> str:
    """The text of `--data` with `change` applied to the name of each source."""
    try:
        parts = parts_of(DataSettings(source=text))
    except DataError:  # reported when the run opens its data
        return text
    return ",".join(str(replace(each, source=change(each.source))) for each in parts)


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, of an unknown user, or with a NUL
        return False
