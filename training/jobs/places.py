"""Where jobs live: `home()/jobs.sqlite`, and a folder `home()/jobs/<id>` for each."""

import os
import re
from pathlib import Path

from platformdirs import user_data_path

_ID = re.compile(r"[0-9a-f]{8}")


def home() -> Path:
    """$NBDIFF_HOME, or this user's data folder. It is made when something is first written to it."""
    given = os.environ.get("NBDIFF_HOME", "").strip()
    return Path(given).expanduser().absolute() if given else user_data_path("nbdiff", appauthor=False)


def is_id(text: object) -> bool:
    """Whether a text has the form of an id, and so can be the name of a folder and nothing else."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


class Places:
    """The paths under one home."""

    def __init__(self, home: Path):
        self.home = home
        self.database = home / "jobs.sqlite"
        self.lock = home / "jobs.lock"
        self.reserve = home / "jobs.reserve"
        self.jobs = home / "jobs"

    def folder(self, job: str) -> Path:
        """The folder of a job. Raises ValueError for a text that is no id."""
        if not is_id(job):
            raise ValueError("not the id of a job")
        return self.jobs / job


def run_of(folder: Path) -> Path:
    """The run's folder inside a job's."""
    return folder / "run"


def log_of(folder: Path) -> Path:
    """What the trainer has printed, over all its starts."""
    return folder / "log.txt"


def recipe_of(folder: Path) -> Path:
    """The recipe a job was submitted with, resolved."""
    return folder / "recipe.yaml"
