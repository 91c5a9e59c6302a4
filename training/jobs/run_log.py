"""The lines of a run's logs as values. A line of another version, or one cut in half, is read as far as it goes."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class StepFigures:
    """A line of metrics.jsonl: one optimiser step. None: the line does not say."""

    step: int  # steps done, this one among them
    loss: float | None = None  # nats a token, as the losses below
    loss_mdm: float | None = None  # of masked tokens; 0 or None where nothing was masked
    loss_ar: float | None = None  # of next tokens
    block_size: int | None = None  # tokens
    lr: float | None = None
    tokens_seen: int | None = None  # clean tokens since the run began
    tokens_per_second: float | None = None
    seconds: float | None = None  # of training since the run began
    peak_memory: int | None = None  # bytes

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self | None:
        """None for a line without a step."""
        if not isinstance(line.get("step"), int):
            return None
        return cls(**{each.name: line.get(each.name) for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """Nats a token on held-out documents; None where there was no such token."""

    loss_mdm: float | None
    loss_ar: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A line of evaluations.jsonl. losses: by block size."""

    step: int
    losses: Mapping[int, HeldOutLosses]

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self | None:
        """None for a line without a step or losses."""
        try:
            losses = {
                int(size): HeldOutLosses(found.get("loss_mdm"), found.get("loss_ar"))
                for size, found in line["losses"].items()
            }
            return cls(line["step"], losses)
        except (KeyError, AttributeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class ProbedAnswer:
    """What the model wrote to one prompt. tokens: each one's text, and the forward that decoded it, 0 the first."""

    prompt: str
    tokens: tuple[tuple[str, int], ...]
    forwards: int
    tokens_per_forward: float


@dataclass(frozen=True, slots=True)
class Probe:
    """A line of probes.jsonl: one checkpoint, its figures over all problems and some of its answers."""

    step: int
    tokens_per_forward: float
    accuracy: float | None  # share of the problems
    problems: int | None
    answers: tuple[ProbedAnswer, ...]

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self | None:
        """None for a line without answers. Their traces are left out."""
        try:
            answers = tuple(
                ProbedAnswer(
                    prompt=each["prompt"],
                    tokens=tuple((text, int(forward)) for text, forward in each.get("tokens") or [(each["text"], 0)]),
                    forwards=each["forwards"],
                    tokens_per_forward=each["tpf"],
                )
                for each in line["probes"]
            )
            found = cls(line["step"], line["tpf"], line.get("accuracy"), line.get("problems"), answers)
            return found if answers else None
        except (KeyError, AttributeError, TypeError, ValueError):
            return None
