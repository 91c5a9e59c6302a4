"""Training jobs that belong to no page and no server: a queue in SQLite, a folder and a process group a job.

>>> from training.jobs import Jobs, JobSpec
>>> jobs = Jobs()
>>> job = jobs.submit(JobSpec.of(recipe="smoke"))
>>> jobs.get(job.id).state
'running'
"""

from importlib import import_module
from typing import Any

# Imported when first asked for: a job's runner lives as long as its trainer, and should not hold torch in memory.
_WHERE = {
    "JobError": "training.jobs.job_errors",
    "JobSpec": "training.jobs.job_spec",
    "Jobs": "training.jobs.queue",
    "TrainingJob": "training.jobs.queue",
    "home": "training.jobs.places",
}

__all__ = ["JobError", "JobSpec", "Jobs", "TrainingJob", "home"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
