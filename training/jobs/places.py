"""Paths of the jobs: the store `home()/jobs.sqlite`, and a folder `home()/jobs/<id>` for each job."""

import os
import re
from pathlib import Path

from platformdirs import user_data_path

_ID = re.compile(r"[0-9a-f]{8}")


def home() -> Path:
    """$NBDIFF_HOME, or this user's data folder. It is created at the first write."""
    given = os.environ.get("NBDIFF_HOME", "").strip()
    return Path(given).expanduser().absolute() if given else user_data_path("nbdiff", appauthor=False)


def is_id(text: object) -> bool:
    """Whether a text has the form of an id. An id is safe as a folder name: it contains no separators or dots."""
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
        """The folder of a job. Raises ValueError for a text that is not an id."""
        if not is_id(job):
            raise ValueError("not the id of a job")
        return self.jobs / job


def run_of(folder: Path) -> Path:
    """The folder of the run, inside the job's folder."""
    return folder / "run"


def log_of(folder: Path) -> Path:
    """The output of the trainer, of all its starts."""
    return folder / "log.txt"


def recipe_of(folder: Path) -> Path:
    """The resolved recipe of a job."""
    return folder / "recipe.yaml"


def cluster_of(folder: Path) -> Path:
    """The file that says on which Ray cluster a job runs; a job of this machine has none."""
    return folder / "cluster.json"
