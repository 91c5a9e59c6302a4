"""The lines of a run's logs: metrics.jsonl, evaluations.jsonl and probes.jsonl, each as a dataclass."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One optimiser step: a line of metrics.jsonl."""

    step: int  # from 1
    loss: float  # mdm + ar_weight * ar, in nats; as the step's gradient is of
    loss_mdm: float
    loss_ar: float
    block_size: int
    lr: float
    ar_weight: float  # lambda
    masked_tokens: int
    gradient_norm: float  # before it is clipped
    tokens_seen: int  # clean tokens of the run so far
    tokens_per_second: float
    seconds: float  # of training so far
    peak_memory: int  # bytes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """A line as it was read; None for what an older version did not write."""
        return cls(**{each.name: line.get(each.name) for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """Mean cross-entropy in nats on held-out documents; None where there is no such token."""

    loss_mdm: float | None  # of masked tokens
    loss_ar: float | None  # of next tokens


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Held-out losses after a step, by block size: a line of evaluations.jsonl."""

    step: int
    losses: dict[int, HeldOutLosses]

    def to_json(self) -> dict[str, Any]:
        return {"step": self.step, "losses": {str(size): asdict(each) for size, each in self.losses.items()}}

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """A line as it was read."""
        losses = {int(size): HeldOutLosses(each["loss_mdm"], each["loss_ar"]) for size, each in line["losses"].items()}
        return cls(line["step"], losses)


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One answer that a probe shows."""

    prompt: str
    text: str
    tpf: float  # tokens per forward
    forwards: int
    tokens: list[tuple[str, int]]  # text, and the pass of its block that fixed the token; 0 where AR did
    trace: dict[str, Any]  # docs/trace-format.md


@dataclass(frozen=True, slots=True)
class Probe:
    """The probes of one checkpoint: a line of probes.jsonl."""

    step: int
    tpf: float  # tokens per forward, over all answers
    accuracy: float  # share of the held-out problems
    problems: int
    probes: list[ProbeAnswer]  # the first few answers
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
