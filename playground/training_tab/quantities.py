"""Seconds in words, as the tab shows them."""

from training.planning import durations

ALMOST = 1.0  # seconds; a shorter time is shown as "under 1 s"


def duration(seconds: float) -> str:
    """A time in words, such as "50 min"."""
    return "under 1 s" if seconds < ALMOST else durations.duration(seconds)
