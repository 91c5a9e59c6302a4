"""cluster.json in a job's folder: the Ray cluster that the job runs on. A job without it runs on this machine."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from training.jobs.places import cluster_of


@dataclass(frozen=True, slots=True)
class RayCluster:
    """address: the URL of its job server. workers: processes of the run. submission: the latest, as Ray names it."""

    address: str
    workers: int = 1
    submission: str | None = None

    def check(self) -> None:
        """Raise JobError for an address that is no URL, or a number out of range."""
        # Imported here: the process that follows a Ray job reads this file and must not import torch.
        from nbdiff_engine.errors import brief
        from training.jobs.job_errors import JobError

        if not self.address.startswith(("http://", "https://")):
            raise JobError(
                f"The address {brief(self.address)} is not the URL of a Ray job server, which the head of a cluster "
                "prints when it starts, such as http://127.0.0.1:8265."
            )
        if not 1 <= self.workers <= 100_000:
            raise JobError(f"workers is {brief(self.workers)}; it must be from 1 to 100,000.")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """That of a job; None if the file cannot be read."""
        try:
            return cls(**json.loads(cluster_of(folder).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        """Write the file completely, or leave it unchanged."""
        file = cluster_of(folder)
        part = file.with_name(f"{file.name}.part")
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(part, file)
