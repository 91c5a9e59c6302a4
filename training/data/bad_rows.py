"""Rows that cannot be used: they are skipped, counted, and named, unless there are too many."""

import logging
from dataclasses import dataclass, field

from nbdiff_engine.errors import brief_text
from training.errors import DataError
from training.failure_kind import FailureKind

logger = logging.getLogger(__name__)

_NAMED = 5  # rows named in the log


@dataclass
class BadRows:
    """The unusable rows of a source. allowed: the largest share of them with which the source is used."""

    name: str
    allowed: float
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Count a row. problem: one sentence that names the row."""
        self.count += 1
        if len(self.first) < _NAMED:
            self.first.append(problem)

    def check(self, rows: int) -> None:
        """Name the first rows in the log. rows: all rows. Raises DataError if more than the allowed share are bad."""
        if not self.count:
            return
        share = self.count / max(rows, 1)
        if share > self.allowed:
            raise DataError(
                f"{brief_text(self.first[0], 300)} Of {rows} rows, {self.count} cannot be used; data.bad_rows allows "
                f"{100 * self.allowed:g} %.",
                FailureKind.BAD_ROW,
            )
        logger.warning("%s: %d of %d rows are left out, because they cannot be used", self.name, self.count, rows)
        for problem in self.first:
            logger.warning("left out: %s", brief_text(problem, 300))
