"""Training jobs that run independently of any page or server. The queue is in SQLite; each job has its own folder and
process group.

>>> from training.jobs import Jobs, JobSpec
>>> jobs = Jobs()
>>> job = jobs.submit(JobSpec.of(recipe="smoke"))
>>> jobs.get(job.id).state
'running'
"""

from importlib import import_module
from typing import Any

# Imported at first use: a job's runner imports this package and runs as long as its trainer, so it must not load torch.
_MODULES = {
    "JobError": "training.jobs.job_errors",
    "JobSpec": "training.jobs.job_spec",
    "Jobs": "training.jobs.queue",
    "TrainingJob": "training.jobs.queue",
    "home": "training.jobs.places",
}

__all__ = ["JobError", "JobSpec", "Jobs", "TrainingJob", "home"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
