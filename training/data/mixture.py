"""Several sources as one. Nothing is copied: each source stays in its own memory map of Arrow, which may be larger than
the memory."""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from datasets import Dataset

from training.data.data_settings import DataSettings
from training.data.documents import Document, DocumentSource
from training.data.source_names import SourcePart
from training.data.sources import load_rows
from training.errors import DataError

_SLOTS = 1000  # of the repeated pattern by which weighted sources take turns: a weight is a share of them


def rows_of(part: SourcePart, settings: DataSettings) -> Dataset:
    """The rows of one source. Raises DataError, also for a slice without a row."""
    rows = load_rows(part.settings(settings))
    if part.start == 0 and part.stop is None:
        return rows
    stop = len(rows) if part.stop is None else min(part.stop, len(rows))
    if stop <= part.start:
        shown = f"[{part.start}:{'' if part.stop is None else part.stop}]"
        raise DataError(f"The slice {shown} of {part.source} contains no row; it has {len(rows)} rows.")
    return rows.select(range(part.start, stop))


class MixedSource:
    """Documents of several sources by number.

    Without weights each document comes once, source by source; the packer shuffles them. With weights the sources take
    turns in a fixed pattern, in which each has its share of the documents; the mixture ends when every document of
    every source has been read once, so the sources with a higher weight than their size repeat. A document depends on
    its number alone, so a run resumes anywhere and all its processes read the same.
    """

    def __init__(self, sources: Sequence[DocumentSource], weights: Sequence[float] | None, name: str):
        self.name = name
        self.sources = list(sources)
        self._first = list(accumulate((len(each) for each in sources), initial=0))
        self._pattern = None if weights is None else pattern(weights)
        self._count = self._first[-1]
        if self._pattern is not None:
            self._turns = np.bincount(self._pattern, minlength=len(sources))
            # How many turns of the same source come before each turn of the pattern.
            self._before = np.array([(self._pattern[:at] == own).sum() for at, own in enumerate(self._pattern)])
            rounds = max(len(each) / turns for each, turns in zip(self.sources, self._turns, strict=True))
            self._count = math.ceil(rounds * len(self._pattern))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Document:
        source, number = self.place(index)
        return self.sources[source][number]

    def place(self, index: int) -> tuple[int, int]:
        """The source of a document, and its number there."""
        if not 0 <= index < self._count:
            raise IndexError(f"document {index} of {self._count}")
        if self._pattern is None:
            source = int(np.searchsorted(self._first, index, side="right")) - 1
            return source, index - self._first[source]
        turn, slot = divmod(index, len(self._pattern))
        source = int(self._pattern[slot])
        number = turn * int(self._turns[source]) + int(self._before[slot])
        return source, number % len(self.sources[source])


def pattern(weights: Sequence[float]) -> np.ndarray:
    """Which source has each slot, int [_SLOTS]: at every point each has had its share, to one slot.

    A source with a very small weight has one slot.
    """
    total = sum(weights)
    shares = np.maximum(np.array(weights) / total, 1 / _SLOTS)
    shares = shares / shares.sum()
    given, found = np.zeros(len(shares)), np.zeros(_SLOTS, dtype=np.int64)
    for slot in range(_SLOTS):
        found[slot] = np.argmax(shares * (slot + 1) - given)
        given[found[slot]] += 1
    return found


def first_of_each(contents: np.ndarray) -> np.ndarray:
    """The sorted indices of the documents whose content no earlier one has. contents: a hash of each, int64."""
    return np.sort(np.unique(contents, return_index=True)[1])
