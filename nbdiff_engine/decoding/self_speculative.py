"""Lossless self-speculation: draft a block by denoising, verify it by the causal commit pass.

The commit pass of a token-causal checkpoint *is* an AR pass over the block: it gives AR's token for the position of
every draft token. The longest prefix of equal tokens is accepted, AR's own token follows it, and the rest is rolled
back. The output equals the output of AR for any draft, greedy or sampled. Tokens per forward are
(k + 1) / (D + 1) for k accepted drafts after D denoise passes. Related: Nemotron-Labs-Diffusion
(arXiv 2607.05722), S2D2 (arXiv 2603.25702), Fast-dVLM (arXiv 2604.06832).

One forward can also verify and draft: noise rows stand behind the clean rows of the drafts (`draft_layout`). Such a
forward settles at least the token that AR would, so an answer never takes more forwards than AR's. With a draft adapter
all forwards are of this kind, also those that only draft: the settled token is a clean row, and its key and value stay.
"""

from collections.abc import Sequence

from nbdiff_engine.decoding.draft_layout import AdaptiveLayout, Choice, Draft, FixedLayout, Layout, Shape
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.decoding.row import AnswerRow, Program
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.trace.events import Fixed, Reason, Verify

_FIRST_PAUSE, _LONGEST_PAUSE = 16, 256  # tokens, for each pass of a draft
_MOST_CREDIT = 8  # drafts


class DraftBackoff:
    """Decides which blocks are drafted, from the accepted drafts so far, so that equal tokens give equal passes.

    A draft of D passes saves a forward if AR accepts more than D of its tokens, and costs one for each token fewer. The
    balance of both is kept, up to _MOST_CREDIT drafts without an accepted token. If it is used up, AR decodes the next
    _FIRST_PAUSE * D tokens; then one draft is tried, and after each draft that does not pay the pause is twice as long.
    Drafts that are never accepted cost 2 forwards of the first 17, and fewer and fewer after that, for D = 1.
    """

    def __init__(self, draft_steps: int):
        self._steps = draft_steps
        self._credit = self._start = max(2, draft_steps)
        self._pause = _FIRST_PAUSE * draft_steps  # tokens of the next pause
        self._left = 0  # tokens of the current pause

    def drafts_next(self) -> bool:
        """Whether the next block is drafted; if not, AR decodes one token."""
        self._left -= 1
        return self._left < 0

    def drafted(self, accepted: int) -> None:
        """Note how many tokens of a draft were accepted."""
        gain = accepted - self._steps
        self._credit = min(self._credit + gain, _MOST_CREDIT * self._steps)
        if self._credit <= 0:
            self._credit, self._left, self._pause = 1, self._pause, min(2 * self._pause, _LONGEST_PAUSE * self._steps)
        elif gain > 0:
            self._credit, self._pause = max(self._credit, self._start), _FIRST_PAUSE * self._steps


def self_speculative(row: AnswerRow) -> Program:
    """Drafts that AR verifies, in forwards of their own or in the forwards that verify."""
    settings = row.plan.settings
    if settings.draft_layout == "separate" and (settings.draft_steps > 1 or not row.plan.gated):
        return _draft_then_verify(row)
    return _draft_behind(row)


def _draft_then_verify(row: AnswerRow) -> Program:
    """Drafts of `block_size` tokens by `draft_steps` denoise passes; the last pass fills all masked positions.

    With `draft_backoff`, blocks of one token stand between the drafts while drafts do not pay: AR steps.
    """
    plan = row.plan
    backoff = DraftBackoff(plan.settings.draft_steps) if plan.settings.draft_backoff else None
    mask = plan.spec.mask_token_id
    opening = yield from row.read_to_last_token()
    number = row.begin.number
    while (reason := row.ended or row.append_final([opening])) is None:
        start, first = row.end - 1, len(row.output) - 1
        width = plan.block_width(start) if backoff is None or backoff.drafts_next() else 1
        block = [opening] + [mask] * (width - 1)

        # 1. Draft. Early passes fix the positions that the policy chooses, the last pass fixes all that remain.
        for step in range(plan.settings.draft_steps):
            masked = [index for index, token in enumerate(block) if token == mask]
            if not masked:
                break
            predicted = yield Pass.denoise(block, start, [index - 1 for index in masked])
            last = step == plan.settings.draft_steps - 1
            chosen = range(len(masked)) if last else plan.positions_to_fix(predicted, step)
            row.unmask(block, start, masked, predicted, dict.fromkeys(chosen, Reason.DRAFT), number, step)

        # 2. Verify, and keep the drafts that equal AR's tokens. The next pass starts after them, which rolls back the
        # rest.
        predicted = yield Pass.commit(block, start, range(len(block)))
        drafts = block[1:]
        agreed = next((i for i, draft in enumerate(drafts) if draft != predicted.tokens[i]), len(drafts))
        if drafts and backoff is not None:
            backoff.drafted(agreed)
        reason = row.append_final(drafts[:agreed])
        accepted = len(row.output) - first - 1  # fewer than agreed if one of them ends the answer
        reasons = [Reason.ACCEPTED_DRAFT] * accepted
        if reason is None:
            reasons.append(Reason.CORRECTION if agreed < len(drafts) else Reason.AR)
        fixed = tuple(row.fixed(predicted, index, first + 1 + index, why) for index, why in enumerate(reasons))
        row.emit(Verify(row.index, row.time, number, first, first + len(block), accepted, fixed))
        if reason is not None:
            return reason
        opening = predicted.tokens[agreed]
        number += 1
    return reason


# -- one forward that verifies and drafts -----------------------------------------------------------------


def _draft_behind(row: AnswerRow) -> Program:
    """Forwards of the last settled token, of drafts to verify as clean rows, and of noise rows for the next drafts."""
    plan = row.plan
    shape = Shape.of(plan.settings.block_size, plan.gated)
    layout = _layout_of(plan, shape, row.batch)
    drafts: list[tuple[Draft, Fixed]] = []  # for the positions behind `opening`
    opening = yield from row.read_to_last_token()
    number = row.begin.number
    while (reason := row.ended or row.append_final([opening])) is None:
        start, first = row.end - 1, len(row.output) - 1
        choice = layout.choose([draft for draft, _ in drafts], row.limit - len(row.output), plan.end_token_ids)
        clean = [opening, *(draft.token for draft, _ in drafts[: choice.verified])]
        predicted = yield _pass_of(clean, start, choice, plan)

        # 1. Accept the drafts that equal AR's tokens, and take AR's token behind them.
        aside = [draft.token != token for (draft, _), token in zip(drafts, predicted.tokens[: len(clean)])]
        agreed = min(aside.index(True) if True in aside else len(aside), choice.verified)
        layout.observe([(draft, not wrong) for (draft, _), wrong in zip(drafts, aside[: agreed + 1])])
        reason = row.append_final(clean[1 : 1 + agreed])
        accepted = len(row.output) - first - 1  # fewer than agreed if one of them ends the answer
        reasons = [Reason.ACCEPTED_DRAFT] * accepted
        if reason is None:
            reasons.append(Reason.CORRECTION if agreed < choice.verified else Reason.AR)
        fixed = [row.fixed(predicted, index, first + 1 + index, why) for index, why in enumerate(reasons)]

        # 2. The next drafts: those behind this acceptance point, else what is left of the old ones.
        index = len(clean)  # of the first prediction of a group
        left = drafts[agreed + 1 :] if len(aside) > agreed and not aside[agreed] else []
        for point, count in choice.points:
            if point == agreed:
                made = [row.fixed(predicted, index + at, first + agreed + 2 + at, Reason.DRAFT) for at in range(count)]
                left = [(Draft(each.token, each.confidence, at), each) for at, each in enumerate(made, start=1)]
            index += count
        drafts = left if reason is None else []
        fixed += [each for _, each in drafts]
        row.emit(Verify(row.index, row.time, number, first, first + len(clean), accepted, tuple(fixed)))
        if reason is not None:
            return reason
        opening = predicted.tokens[agreed]
        number += 1
    return reason


def _layout_of(plan: DecodePlan, shape: Shape, rows: int) -> Layout:
    settings = plan.settings
    if settings.draft_layout == "auto":
        return AdaptiveLayout(shape, plan.cost, rows, settings.draft_backoff)
    return FixedLayout(settings.draft_layout, shape, settings.draft_confidence)


def _pass_of(clean: Sequence[int], start: int, choice: Choice, plan: DecodePlan) -> Pass:
    """The pass of a choice: the logits of all clean rows are wanted, then those of the rows that draft, group by group.

    With a draft adapter, the noise rows follow their anchor, and all draft. A block of the paper's way begins with the
    anchor once more, as a noised token; AR has its prediction already, and the output of the last row was not trained.
    """
    mask = plan.spec.mask_token_id
    wanted, groups = list(range(len(clean))), []
    index = len(clean)
    for point, count in choice.points:
        if plan.gated:
            groups.append((point + 1, [mask] * count))
            wanted += range(index, index + count)
        else:
            groups.append((point, [clean[point], *[mask] * (count + 1)]))
            wanted += range(index + 1, index + 1 + count)
        index += len(groups[-1][1])
    return Pass.mixed(clean, start, groups, wanted)
