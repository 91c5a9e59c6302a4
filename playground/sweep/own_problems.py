"""Problems of visitors for a sweep: read from an upload, checked, and kept until the server stops."""

import secrets
from collections import OrderedDict
from pathlib import Path
from typing import Any

from nbdiff_engine import NBDiffError
from nbdiff_engine.tasks import Problem
from nbdiff_engine.tasks.problem_file import read_problems
from playground.page_words import counted

MOST_KEPT = 16  # uploads; the oldest is dropped
KEY = "own:"  # begins the value of an upload in the form


class OwnProblems:
    """The uploads by their values in the form."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[str, list[Problem]]] = OrderedDict()

    def read(self, path: Any) -> tuple[str, str, int]:
        """Read an uploaded file. Returns its value in the form, its label, and the number of problems.

        Raises NBDiffError, one sentence with the name of the file, not its place on the server.
        """
        file = Path(str(path))
        problems = read_problems(file, file.name)
        key = KEY + secrets.token_hex(6)
        label = f"{file.name} ({counted(len(problems), 'problem')})"
        self._kept[key] = (label, problems)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return key, label, len(problems)

    def get(self, key: Any) -> list[Problem] | None:
        """The problems of an upload; None for a value that is no upload. Raises NBDiffError if it is not kept."""
        if not isinstance(key, str) or not key.startswith(KEY):
            return None
        if key not in self._kept:
            raise NBDiffError("These problems are not on the server any more; upload the file again.")
        return self._kept[key][1]
