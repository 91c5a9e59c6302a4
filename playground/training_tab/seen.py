"""What a page shows of the jobs now. A tick compares it with what is there, and sends the differences."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.training_tab.x_axis import STEP, X_AXES

Stamp = tuple[int, int] | None  # time and size of a file


@dataclass(frozen=True, slots=True)
class View:
    """How the figures are shown. x: one of X_AXES."""

    x: str = STEP
    log: bool = False
    smooth: bool = False

    @classmethod
    def of(cls, x: Any, scale: Any) -> "View":
        """From the values of the form."""
        ticked = scale if isinstance(scale, list) else []
        return cls(x if x in X_AXES else STEP, LOG in ticked, SMOOTH in ticked)


LOG, SMOOTH = SCALES = ("Logarithmic", "Smoothed")


@dataclass(frozen=True, slots=True)
class SeenPanel:
    """What a page shows in the panel. For each part, a value that differs if the part must be drawn again.

    drawn: when the curves were drawn, on this server's clock.
    """

    job: str
    head: tuple[Any, ...]
    curves: tuple[Any, ...]
    drawn: float
    buttons: tuple[Any, ...]
    checkpoints: tuple[tuple[str, str], ...]
    held_out: tuple[Any, ...]
    log: str
    settings: Stamp
    card: Stamp
    probes: Stamp
    note: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page shows now; a tick sends the differences. gone: the selected job does not exist any more. pause:
    seconds between two ticks."""

    listed: tuple[tuple[str, str], ...]
    pause: float
    gone: bool
    panel: SeenPanel | None


def stamp(path: Path) -> Stamp:
    """A value that differs if the file has changed; None without a file."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size
