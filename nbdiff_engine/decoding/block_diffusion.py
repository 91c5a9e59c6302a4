"""Block-diffusion decoding (NBDiff, arXiv 2512.06776): denoise a block in parallel, commit it, open the next.

Covers both families of checkpoints that DiffusionSpec describes: shifted ones, whose blocks open with a token
from AR logits, and unshifted ones, whose blocks are masked whole; blocks laid from the prompt's end, or at
absolute positions with the prompt's tail inside the first one.
"""

from nbdiff_engine.block_model import Pass
from nbdiff_engine.decoding.row import Program, Row
from nbdiff_engine.events import Commit, FinishReason, Reason


def block_diffusion(row: Row) -> Program:
    """Blocks of `block_size`, each denoised by the unmasking policy, sub-block by sub-block.

    The answer ends as soon as what ends it stands behind no mask: a block is neither denoised further nor
    committed for the sake of tokens that would be cut off.
    """
    plan, spec = row.plan, row.plan.spec
    mask, from_ar = spec.mask_token_id, spec.first_token == "ar"

    # 1. Read the prompt, up to where the first block starts.
    start = len(row.prompt)
    if spec.block_grid == "absolute":
        start -= start % plan.settings.block_size
    known = row.prompt[start:]
    bidirectional = spec.context == "block_causal" and spec.block_grid == "absolute"
    predicted = yield from row.read_prompt(
        start, plan.settings.block_size if bidirectional else 1, want_next=from_ar and not known
    )
    opening = predicted.tokens

    number = 0
    while True:
        # 2. Open a block: what is known of it, MASK for the rest.
        block = known + opening
        block += [mask] * (plan.block_width(start) - len(block))
        first = start - len(row.prompt)  # output position of the block's first token
        reason = _settle(row, block, start)

        # 3. Denoise until nothing is masked.
        step = 0
        while reason is None and mask in block:
            masked = _masked_of_sub_block(block, mask, plan.settings.sub_block_size)
            predicted = yield Pass.denoise(block, start, [index - plan.shift for index in masked])
            row.unmask(block, start, masked, predicted, plan.policy.select(predicted), number, step)
            reason = _settle(row, block, start)
            step += 1
        if reason is not None:
            return reason

        # 4. Commit it: a second forward over the final tokens, as context. Its last logits open the next block.
        predicted = yield Pass.commit(block, start, [len(block) - 1] if from_ar else [])
        stop = first + len(block)
        fixed = tuple(row.fixed(predicted, i, stop, Reason.AR) for i in range(len(predicted.tokens)))
        row.emit(Commit(row.index, row.time, number, first, stop, fixed))
        start, known, opening = start + len(block), [], predicted.tokens
        number += 1


def _settle(row: Row, block: list[int], start: int) -> FinishReason | None:
    """Settle the tokens of the block that stand before its first MASK."""
    mask = row.plan.spec.mask_token_id
    end = block.index(mask) if mask in block else len(block)
    return row.settle(block[row.end - start : end])


def _masked_of_sub_block(block: list[int], mask: int, sub_block_size: int) -> list[int]:
    """Indices still masked in the first sub-block that is not done; the last sub-block may be short."""
    low = block.index(mask) // sub_block_size * sub_block_size
    return [index for index in range(low, min(low + sub_block_size, len(block))) if block[index] == mask]
