"""The frames of a sweep: an answer with the data for the table, and a report of the current setting."""

from dataclasses import asdict, dataclass
from typing import Any

from nbdiff_engine.trace.metrics import Metrics


@dataclass(frozen=True, slots=True)
class At:
    """The numbers of the current setting and problem. It is sent often, because the worker stops a run at a frame."""

    setting: int
    problem: int
    warm_up: bool = False

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"kind": "at", "setting": self.setting, "problem": self.problem}
        return {**data, "warm_up": True} if self.warm_up else data


@dataclass(frozen=True, slots=True)
class SweepAnswer:
    """One answer. setting, problem: their numbers. label, series, block_size: the setting as in the table.

    correct: None if the answer was not checked. digest: equal for equal token ids; the ids would be too large for the
    log of a long sweep. output: the beginning of the text.
    """

    setting: int
    problem: int
    model: str
    series: str
    block_size: int
    label: str
    strategy: str
    metrics: Metrics
    correct: bool | None
    digest: str
    output: str = ""

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        del fields["metrics"]
        figures = {
            "tokens": self.metrics.output_tokens,
            "forwards": self.metrics.decode_forwards,
            "seconds": self.metrics.decode_seconds,
        }
        return {"kind": "row", **fields, **figures}
