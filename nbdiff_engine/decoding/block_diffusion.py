"""Block-diffusion decoding (NBDiff, arXiv 2512.06776): denoise a block in parallel, commit it, start the next block.

Supports both kinds of checkpoints that DiffusionSpec describes: shifted ones, whose blocks start with a token
from AR logits, and unshifted ones, whose blocks are fully masked at first. Supports both block grids: blocks that
start at the prompt's end, and blocks at absolute positions, where the first block contains the end of the prompt.
"""

from nbdiff_engine.decoding.row import AnswerRow, Program
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.trace.events import Commit, FinishReason, Reason


def block_diffusion(row: AnswerRow) -> Program:
    """Blocks of `block_size` tokens; the unmasking policy denoises each block, sub-block by sub-block.

    The answer ends as soon as no masked position is left before the token that ends it. The rest of its block would
    be cut off, so it is neither denoised nor committed.
    """
    plan, spec = row.plan, row.plan.spec
    mask, from_ar = spec.mask_token_id, spec.first_token == "ar"

    # 1. Read the prompt and the tokens that are already committed, up to the start of the first block. If committed
    # tokens see their whole block, read whole blocks; with an absolute grid the prompt is also split into blocks.
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
        # 2. Start a block: its known tokens, then MASK for the others.
        block = known + opening
        block += [mask] * (plan.block_width(start) - len(block))
        first = start - len(row.prompt)  # output position of the block's first token
        reason = _append_known(row, block, start)

        # 3. Denoise until no position is masked.
        while reason is None and mask in block:
            stop = _first_end(block, len(known), plan.end_token_ids) if plan.settings.skip_after_eos else len(block)
            masked = _masked_of_sub_block(block[:stop], mask, plan.settings.sub_block_size)
            predicted = yield Pass.denoise(block, start, [index - plan.shift for index in masked])
            chosen = plan.positions_to_fix(predicted, sub_block_step)
            row.unmask(block, start, masked, predicted, chosen, number, step)
            reason = _append_known(row, block, start)
            step += 1
            sub_block_step = 0 if len(chosen) == len(masked) else sub_block_step + 1
        if reason is not None:
            return reason

        # 4. Commit it: another forward over the final tokens, as context. Its last logits give the next block's first
        # token.
        predicted = yield Pass.commit(block, start, [len(block) - 1] if from_ar else [])
        stop = first + len(block)
        fixed = tuple(row.fixed(predicted, i, stop, Reason.AR) for i in range(len(predicted.tokens)))
        row.emit(Commit(row.index, row.time, number, first, stop, fixed))
        start, known, opening = start + len(block), [], predicted.tokens
        number, step, sub_block_step = number + 1, 0, 0


def _append_known(row: AnswerRow, block: list[int], start: int) -> FinishReason | None:
    """Make the tokens of the block before its first MASK final; why the answer ended, or None."""
    mask = row.plan.spec.mask_token_id
    end = block.index(mask) if mask in block else len(block)
    return row.append_final(block[row.end - start : end])


def _first_end(block: list[int], known: int, end_token_ids: frozenset[int]) -> int:
    """Index of the first token after the block's `known` prompt tokens that ends the answer; the block's length if
    there is none.

    The positions after it are never part of the answer. The authors' code denoises them nevertheless, and so does this
    engine unless `skip_after_eos` is set: a masked position is a different context than a filled one, so the tokens
    before the end may change.
    """
    return next((at for at in range(known, len(block)) if block[at] in end_token_ids), len(block))


def _masked_of_sub_block(block: list[int], mask: int, sub_block_size: int) -> list[int]:
    """Masked indices of the first sub-block that is not finished; the last sub-block may be shorter."""
    low = block.index(mask) // sub_block_size * sub_block_size
    return [index for index in range(low, min(low + sub_block_size, len(block))) if block[index] == mask]
