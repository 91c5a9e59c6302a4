"""StepLosses: the mean losses of one optimiser step, of either objective."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepLosses:
    """In nats per counted target, except tv. None: the objective has no such loss."""

    loss: float  # whose gradient is taken
    mdm: float  # cross-entropy at masked tokens, or at noise rows
    ar: float | None
    scored: int  # masked tokens, or noise rows, with a target
    kl: float | None = None
    tv: float | None = None  # 0 to 1
    eos_share: float | None = None  # of the masked tokens: EOS, fill of short answers included
