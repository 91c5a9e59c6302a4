"""What a sweep reports to the worker's log: one answer with all that the table needs, and what is being decoded."""

from dataclasses import asdict, dataclass
from typing import Any

from nbdiff_engine.trace.metrics import Metrics


@dataclass(frozen=True, slots=True)
class At:
    """What is being decoded: the setting and the problem, by number. Now and then, so that a stop is heard."""

    setting: int
    problem: int
    warm_up: bool = False

    def to_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"kind": "at", "setting": self.setting, "problem": self.problem}
        return {**said, "warm_up": True} if self.warm_up else said


@dataclass(frozen=True, slots=True)
class SweepAnswer:
    """One answer. setting, problem: numbers; label, series, block_size: the setting in words, as the table has it.

    correct: None for an answer that nobody judged. digest: equal digests are equal token ids; the ids themselves
    would fill the log of a long sweep. output: the text, of a visitor's own prompt alone.
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
    output: str | None = None

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        del fields["metrics"]
        if self.output is None:
            del fields["output"]
        figures = {
            "tokens": self.metrics.output_tokens,
            "forwards": self.metrics.decode_forwards,
            "seconds": self.metrics.decode_seconds,
        }
        return {"kind": "row", **fields, **figures}
