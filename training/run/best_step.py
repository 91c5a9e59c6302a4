"""Which evaluated step of a run is the best, and how long no evaluation has been better.

Evaluations are compared by the held-out MDM loss at the last block size, which does not depend on the size of the
training step. A model without MDM loss (blocks of one token, pretraining) is compared by its AR loss, and a draft
adapter by its accepted run.
"""

from collections.abc import Sequence

from training.run.log_lines import HeldOutEvaluation


def score(evaluation: HeldOutEvaluation, block_size: int) -> float | None:
    """The number by which evaluations are compared; a lower one is better. block_size: the run's last one.

    A loss in nats per token, or the accepted run, negated.
    """
    if evaluation.acceptance is not None:
        return -evaluation.acceptance.accepted_run
    losses = evaluation.losses.get(block_size)
    if losses is None:
        return None
    return losses.loss_ar if losses.loss_mdm is None else losses.loss_mdm


def best_of(evaluations: Sequence[HeldOutEvaluation], block_size: int) -> HeldOutEvaluation | None:
    """The evaluation with the lowest score, the earliest of equals. Step 0 is the base, so it is no candidate."""
    found = [(loss, each) for each in evaluations if each.step > 0 and (loss := score(each, block_size)) is not None]
    return min(found, key=lambda each: each[0])[1] if found else None


def waited(evaluations: Sequence[HeldOutEvaluation], block_size: int) -> int:
    """The number of evaluations after the best one."""
    best = best_of(evaluations, block_size)
    return 0 if best is None else sum(each.step > best.step for each in evaluations)
