"""The error of jobs: one sentence, and exit code 2 on the command line."""

from training.errors import RunError


class JobError(RunError):
    """A job does not exist, its spec is not valid, or its state does not allow the request."""
