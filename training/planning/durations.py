"""Format durations."""


def duration(seconds: float) -> str:
    """Seconds as a text with a suitable unit, such as "2.5 h"."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:,.1f} days"
