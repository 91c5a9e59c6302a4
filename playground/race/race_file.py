"""A race: lanes, each a trace with its name, metrics and text. Its JSON is the race file that the page exports."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from nbdiff_engine.trace.metrics import Metrics
from nbdiff_engine.trace.trace_file import Trace

RACE_FORMAT, RACE_VERSION = "nbdiff-race", 1


@dataclass(frozen=True, slots=True)
class RaceLane:
    """A decoded lane. An unfinished lane has a trace without a finish and no metrics.

    context, token_shift: of the checkpoint's spec, for the view of the attention mask; None if a file has no value.
    """

    name: str
    about: str
    trace: Trace
    context: str | None
    token_shift: bool | None
    metrics: Metrics | None = None
    text: str = ""

    @property
    def strategy(self) -> str | None:
        """The strategy of the lane; None if an imported file does not name it."""
        return self.trace.settings.get("strategy")

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "about": self.about,
            "trace": self.trace.to_json(),
            "context": self.context,
            "token_shift": self.token_shift,
            "metrics": None if self.metrics is None else dataclasses.asdict(self.metrics),
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Race:
    """title: the prompt; verdict: the fastest lane and the reason in words, or ""."""

    title: str
    verdict: str
    lanes: tuple[RaceLane, ...]

    def to_json(self) -> dict[str, Any]:
        """The content of the race file as plain JSON values."""
        return {
            "format": RACE_FORMAT,
            "version": RACE_VERSION,
            "title": self.title,
            "verdict": self.verdict,
            "lanes": [lane.to_json() for lane in self.lanes],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_json`, for bundled files; see `imported_race` for files of visitors."""
        lanes = []
        for lane in data["lanes"]:
            metrics = None if lane["metrics"] is None else Metrics(**lane["metrics"])
            lanes.append(RaceLane(**{**lane, "trace": Trace.from_json(lane["trace"], whole=False), "metrics": metrics}))
        return cls(data["title"], data["verdict"], tuple(lanes))
