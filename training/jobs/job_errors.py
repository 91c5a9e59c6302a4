"""What can go wrong with a job, as one sentence. Exit code 2 at the command line."""

from training.errors import RunError


class JobError(RunError):
    """A job is not there, cannot be made from what was given, or is not in a state for what was asked."""
