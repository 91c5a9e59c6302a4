"""The acceptance of a draft adapter on held-out answers: by offset, and the mean accepted run.

A loss does not show at which offset drafts stop being right; these figures do. Every block is drafted in one pass over
noise alone, after true text, and compared with the base's own greedy tokens after that text. On greedy answers of the
base, this is what greedy self-speculation accepts. In other texts the base may prefer another token than the text has;
then a draft at k + 1 is still compared with what the base predicts after the text's own tokens.
"""

from collections.abc import Iterable

import torch
from accelerate import Accelerator

from training.objective.draft_noising import DraftBatch
from training.objective.draft_objective import DraftObjective, Drafts
from training.objective.noising import IGNORED
from training.run.log_lines import Acceptance, HeldOutLosses
from training.run.summing import summed


def acceptance_of(
    objective: DraftObjective, batches: Iterable[DraftBatch], group: int, accelerator: Accelerator
) -> tuple[HeldOutLosses, Acceptance | None]:
    """The mean cross-entropy of drafts and their acceptance; None without a block.

    batches: those of this process, all noise; the figures are over all processes. group: noise rows of a block.
    """
    was_training = objective.training
    objective.eval()
    sums = torch.zeros(2 * group + 4, dtype=torch.float64)
    try:
        for batch in batches:
            with accelerator.autocast():
                sums += counts(objective.drafts(batch.to(accelerator.device)), group)
    finally:
        objective.train(was_training)
    found = summed(sums, accelerator)
    right, scored = found[:group], found[group : 2 * group]
    run, blocks, ce, rows = found[2 * group :]
    if not blocks:
        return HeldOutLosses(None, None), None
    by_offset = tuple(hits / total if total else None for hits, total in zip(right, scored, strict=True))
    return HeldOutLosses(ce / rows, None), Acceptance(by_offset, run / blocks, int(blocks))


def counts(drafts: Drafts, group: int) -> torch.Tensor:
    """Right and scored drafts at each offset, the sum of accepted runs, blocks, the sum of cross-entropies, and rows:
    float64 [2 * group + 4]."""
    scored = (drafts.targets != IGNORED).view(-1, group)
    right = (drafts.tokens == drafts.wanted).view(-1, group) & scored
    run = right.long().cumprod(dim=1).sum()
    blocks = scored[:, 0].sum()  # a block without a first draft is not drafted
    figures = [run, blocks, drafts.ce[scored.flatten()].sum(), scored.sum()]
    return torch.cat([right.sum(0).double(), scored.sum(0).double(), torch.stack([each.double() for each in figures])])
