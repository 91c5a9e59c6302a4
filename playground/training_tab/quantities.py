"""Seconds and bytes in words, as the tab shows them."""

from training.planning import durations

ALMOST = 1.0  # seconds below which nothing is worth a figure


def duration(seconds: float) -> str:
    """Seconds in words."""
    return "under 1 s" if seconds < ALMOST else durations.duration(seconds)


def memory(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
