"""The lines of a run's logs: metrics.jsonl, evaluations.jsonl and probes.jsonl, each as a dataclass.

The trainer writes them; the queue and the page read them. This module does not import torch, so readers start fast.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One optimiser step: a line of metrics.jsonl. None: the line is of an older version without this value."""

    step: int  # from 1
    loss: float | None = None  # mdm + ar_weight * ar, in nats; the loss whose gradient is taken
    loss_mdm: float | None = None
    loss_ar: float | None = None
    loss_kl: float | None = None  # of a draft adapter: KL(base || drafter), in nats
    loss_tv: float | None = None  # of a draft adapter: their total variation, 0 to 1
    block_size: int | None = None  # tokens
    lr: float | None = None
    ar_weight: float | None = None  # lambda
    masked_tokens: int | None = None
    eos_share: float | None = None  # of the masked tokens: EOS, fill of short answers included; None if none is masked
    gradient_norm: float | None = None  # before it is clipped
    tokens_seen: int | None = None  # clean tokens since the start of the run
    tokens_per_second: float | None = None
    seconds: float | None = None  # of training since the start of the run
    peak_memory: int | None = None  # bytes since the start of the process: tensors on the GPU, without one all RAM
    process_memory: int | None = None  # bytes of RAM of the main process
    gpu_memory: int | None = None  # bytes that PyTorch holds on the GPU of the main process
    gpu_use: int | None = None  # percent of the last sample period in which that GPU computed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self | None:
        """A line of the file; None for a line without a step."""
        if not isinstance(line.get("step"), int):
            return None
        return cls(**{each.name: line.get(each.name) for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """Mean cross-entropy in nats per token on held-out documents; None if there is no such token."""

    loss_mdm: float | None  # of masked tokens, a weighted mean: see `objective.noising`
    loss_ar: float | None  # of next tokens


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often a draft adapter is right on held-out answers, in one pass over noise alone.

    A draft is right if it is the base's own most likely token where the base has read the true text.
    """

    by_offset: tuple[float | None, ...]  # share of right drafts at k = 1, 2, ... after the token of AR; None: no draft
    accepted_run: float  # mean number of right drafts before the first wrong one
    blocks: int  # drafted blocks

    @property
    def tokens_per_forward(self) -> float:
        """Of a draft and a verify pass: the token of AR, the accepted run, and the token after it."""
        return (self.accepted_run + 2) / 2

    def __str__(self) -> str:
        shares = " ".join("-" if share is None else f"{share:.3f}".removeprefix("0") for share in self.by_offset)
        return (
            f"right drafts at k = 1..{len(self.by_offset)}: {shares}; accepted run {self.accepted_run:.2f}, "
            f"{self.tokens_per_forward:.2f} tokens per forward"
        )


@dataclass(frozen=True, slots=True)
class HeldOutEvaluation:
    """Held-out losses after a step, by block size: a line of evaluations.jsonl. Step 0: before training."""

    step: int
    losses: Mapping[int, HeldOutLosses]
    accepted_drafts: float | None = None  # of self-speculation, per verify pass; None: not measured
    acceptance: Acceptance | None = None  # of a draft adapter, at the last block size

    def to_json(self) -> dict[str, Any]:
        losses = {str(size): asdict(each) for size, each in self.losses.items()}
        accepted = {} if self.accepted_drafts is None else {"accepted_drafts": self.accepted_drafts}
        if self.acceptance is not None:
            accepted["acceptance"] = asdict(self.acceptance)
        return {"step": self.step, "losses": losses, **accepted}

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self | None:
        """A line of the file; None for a line without a step or losses."""
        try:
            losses = {
                int(size): HeldOutLosses(found.get("loss_mdm"), found.get("loss_ar"))
                for size, found in line["losses"].items()
            }
            acceptance = line.get("acceptance")
            if acceptance is not None:
                acceptance = Acceptance(**{**acceptance, "by_offset": tuple(acceptance["by_offset"])})
            return cls(line["step"], losses, line.get("accepted_drafts"), acceptance)
        except (KeyError, AttributeError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """One answer that a probe shows. trace: docs/trace-format.md; None after reading, because a trace is large."""

    prompt: str
    text: str
    tokens_per_forward: float
    forwards: int
    tokens: tuple[tuple[str, int], ...]  # text, and the forward of its block that fixed the token; 0: fixed by AR
    trace: dict[str, Any] | None = None
    reference: str | None = None  # the beginning of the document's own answer, for prompts of held-out documents

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "text": self.text,
            "tpf": self.tokens_per_forward,
            "forwards": self.forwards,
            "tokens": [list(each) for each in self.tokens],
            "trace": self.trace,
            **({} if self.reference is None else {"reference": self.reference}),
        }


@dataclass(frozen=True, slots=True)
class Probe:
    """The probes of one checkpoint: a line of probes.jsonl. answers: the first few of the problems."""

    step: int
    tokens_per_forward: float  # over all problems
    accuracy: float | None  # share of the problems; None: the prompts have no known answers
    problems: int | None
    answers: tuple[ProbeAnswer, ...]
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tpf": self.tokens_per_forward,
            "accuracy": self.accuracy,
            "problems": self.problems,
            "probes": [each.to_json() for each in self.answers],
            "seconds": self.seconds,
        }

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self | None:
        """A line of the file, without its traces; None for a line without answers."""
        try:
            answers = tuple(
                ProbeAnswer(
                    prompt=each["prompt"],
                    text=each.get("text", ""),
                    tokens_per_forward=each["tpf"],
                    forwards=each["forwards"],
                    tokens=tuple((text, int(forward)) for text, forward in each.get("tokens") or [(each["text"], 0)]),
                    reference=each.get("reference"),
                )
                for each in line["probes"]
            )
            found = cls(
                line["step"], line["tpf"], line.get("accuracy"), line.get("problems"), answers, line.get("seconds")
            )
            return found if answers else None
        except (KeyError, AttributeError, TypeError, ValueError):
            return None
