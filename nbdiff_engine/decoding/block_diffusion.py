"""Block-diffusion decoding (NBDiff, arXiv 2512.06776): denoise a block in parallel, commit it, open the next.

Covers both families of checkpoints that DiffusionSpec describes: shifted ones, whose blocks open with a token
from AR logits, and unshifted ones, whose blocks are masked whole; blocks laid from the prompt's end, or at
absolute positions with the prompt's tail inside the first one.
"""

from nbdiff_engine.decoding.row import AnswerRow, Program
from nbdiff_engine.model.block_model import Pass
from nbdiff_engine.trace.events import Commit, FinishReason, Reason


def block_diffusion(row: AnswerRow) -> Program:
    """Blocks of `block_size`, each denoised by the unmasking policy, sub-block by sub-block.

    The answer ends as soon as what ends it stands behind no mask: a block is neither denoised further nor
    committed for the sake of tokens that would be cut off.
    """
    plan, spec = row.plan, row.plan.spec
    mask, from_ar = spec.mask_token_id, spec.first_token == "ar"

    # 1. Read the prompt, up to where the first block starts, and what is committed already. Where committed tokens
    # see their block, blocks are read whole; the prompt is laid in blocks too where the grid is absolute.
    size = plan.settings.block_size
    start = len(row.context)
    if spec.block_grid == "absolute":
        start -= start % size
    known = row.context[start:]
    whole_blocks = spec.context == "block_causal"
    predicted = yield from row.read(
        start,
        block_size=size if whole_blocks else 1,
        first_block=len(row.prompt) if whole_blocks and spec.block_grid == "prompt_end" else 0,
        want_next=from_ar and not known and not row.begin.block,
    )
    opening = [mask if token is None else token for token in row.begin.block] or predicted.tokens

    number, step, sub_block_step = row.begin.number, row.begin.step, row.begin.sub_block_step
    while True:
        # 2. Open a block: what is known of it, MASK for the rest.
        block = known + opening
        block += [mask] * (plan.block_width(start) - len(block))
        first = start - len(row.prompt)  # output position of the block's first token
        reason = _settle(row, block, start)

        # 3. Denoise until nothing is masked.
        while reason is None and mask in block:
            stop = _first_eos(block, len(known), plan.eos_token_ids) if plan.settings.skip_after_eos else len(block)
            masked = _masked_of_sub_block(block[:stop], mask, plan.settings.sub_block_size)
            predicted = yield Pass.denoise(block, start, [index - plan.shift for index in masked])
            chosen = plan.positions_to_fix(predicted, sub_block_step)
            row.unmask(block, start, masked, predicted, chosen, number, step)
            reason = _settle(row, block, start)
            step += 1
            sub_block_step = 0 if len(chosen) == len(masked) else sub_block_step + 1
        if reason is not None:
            return reason

        # 4. Commit it: a second forward over the final tokens, as context. Its last logits open the next block.
        predicted = yield Pass.commit(block, start, [len(block) - 1] if from_ar else [])
        stop = first + len(block)
        fixed = tuple(row.fixed(predicted, i, stop, Reason.AR) for i in range(len(predicted.tokens)))
        row.emit(Commit(row.index, row.time, number, first, stop, fixed))
        start, known, opening = start + len(block), [], predicted.tokens
        number, step, sub_block_step = number + 1, 0, 0


def _settle(row: AnswerRow, block: list[int], start: int) -> FinishReason | None:
    """Settle the tokens of the block that stand before its first MASK."""
    mask = row.plan.spec.mask_token_id
    end = block.index(mask) if mask in block else len(block)
    return row.settle(block[row.end - start : end])


def _first_eos(block: list[int], known: int, eos_token_ids: frozenset[int]) -> int:
    """Index of the first EOS behind the `known` tokens of a prompt; the block's length where there is none.

    What stands behind it is never part of the answer. The authors' code denoises it all the same, and so do we unless
    asked: a masked neighbour is not the same context as a filled one, so what stands before may come out otherwise.
    """
    return next((at for at in range(known, len(block)) if block[at] in eos_token_ids), len(block))


def _masked_of_sub_block(block: list[int], mask: int, sub_block_size: int) -> list[int]:
    """Indices still masked in the first sub-block that is not done; the last sub-block may be short."""
    low = block.index(mask) // sub_block_size * sub_block_size
    return [index for index in range(low, min(low + sub_block_size, len(block))) if block[index] == mask]
