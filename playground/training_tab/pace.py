"""How often the page asks for a job, and how often its figures are drawn, which costs a browser 50 ms each."""

from collections.abc import Sequence
from datetime import UTC, datetime

from training.jobs import TrainingJob, states

LIVE_SECONDS, IDLE_SECONDS = 2.0, 8.0  # between two ticks
FASTEST, SLOWEST = 5.0, 30.0  # seconds between two drawings
_SHARE = 0.02  # of the run's time so far


def tick_seconds(jobs: Sequence[TrainingJob]) -> float:
    """Seconds until the page asks again: longer while nothing runs and nothing waits."""
    return LIVE_SECONDS if any(job.state not in states.ENDED for job in jobs) else IDLE_SECONDS


def redraw_seconds(job: TrainingJob, now: datetime | None = None) -> float:
    """Seconds until the figures of a job are drawn again although it has new lines: a long run changes slowly.

    0 for a job that does not run: its figures are drawn at once, because they will not change again.
    """
    if job.state not in states.LIVE or job.started is None:
        return 0.0
    try:
        age = ((now or datetime.now(UTC)) - datetime.fromisoformat(job.started)).total_seconds()
    except (ValueError, TypeError):
        age = 0.0
    return min(SLOWEST, max(FASTEST, _SHARE * age))
