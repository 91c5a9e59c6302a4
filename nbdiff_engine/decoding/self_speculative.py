"""Lossless self-speculation: draft a block by denoising, verify it by the causal commit pass.

The commit pass of a token-causal checkpoint *is* an AR pass over the block: it gives AR's token for the position of
every draft token. The longest prefix of equal tokens is accepted, AR's own token follows it, and the rest is rolled
back. The output equals the output of AR for any draft, greedy or sampled. Tokens per forward are
(k + 1) / (D + 1) for k accepted drafts after D denoise passes. Related: Nemotron-Labs-Diffusion
(arXiv 2607.05722), S2D2 (arXiv 2603.25702), Fast-dVLM (arXiv 2604.06832).

One forward can also verify and draft: it has noise rows after the clean rows of the drafts (`draft_layout`). Such a
forward makes at least the token final that AR would, so an answer never takes more forwards than AR's. With a draft
adapter all forwards are of this kind, also those that only draft: the last final token is a clean row, and its key and
value stay in the cache.

With `draft_candidates`, a forward also verifies next-best tokens of the drafter (arXiv 2609.04010), each as a row that
sees the drafts before it. If one of them is AR's token, its row gives the token after it, and its key and value stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from nbdiff_engine.decoding.draft_layout import AdaptiveLayout, Draft, FixedLayout, Layout, LayoutChoice, Shape
from nbdiff_engine.decoding.plan import DecodePlan
from nbdiff_engine.decoding.row import AnswerRow, Program
from nbdiff_engine.model.passes import Pass
from nbdiff_engine.token_choice.sampling import Prediction
from nbdiff_engine.trace.events import FinishReason, Fixed, Reason, Verify

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
    """Drafts that AR verifies. They are made in separate forwards, or in the forwards that verify."""
    settings = row.plan.settings
    if settings.draft_layout == "separate" and (settings.draft_steps > 1 or not row.plan.gated):
        return _draft_then_verify(row)
    return _verify_and_draft(row)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What AR accepts of a forward's drafts and candidates, as final tokens of the row.

    agreed: how many drafts equal AR's tokens. leaf: which candidate equals AR's token after them; None: none. opening:
    AR's token after what is accepted, which is not final yet. accepted: tokens that became final, fewer if one of them
    ends the answer; reason: why it ended. fixed: these tokens, and the opening if the answer continues.
    """

    agreed: int
    leaf: int | None
    opening: int
    accepted: int
    reason: FinishReason | None
    fixed: list[Fixed]

    @classmethod
    def of(
        cls, row: AnswerRow, predicted: Prediction, drafts: Sequence[int], leaves: Sequence[tuple[int, int]]
    ) -> Self:
        """predicted: after the last final token, the drafts, the leaves, and then the noise rows."""
        first = len(row.output)
        agreed = next((i for i, draft in enumerate(drafts) if draft != predicted.tokens[i]), len(drafts))
        sought = (agreed + 1, predicted.tokens[agreed])
        leaf = leaves.index(sought) if sought in leaves else None
        path = [*range(agreed + 1), *([] if leaf is None else [1 + len(drafts) + leaf])]  # indices of predictions
        tokens = [predicted.tokens[index] for index in path]
        reason = row.append_final(tokens[:-1])
        accepted = len(row.output) - first
        reasons = [Reason.ACCEPTED_DRAFT] * accepted
        if reason is None:
            reasons.append(Reason.CORRECTION if agreed < len(drafts) and leaf is None else Reason.AR)
        fixed = [row.fixed(predicted, index, first + at, why) for at, (index, why) in enumerate(zip(path, reasons))]
        return cls(agreed, leaf, tokens[-1], accepted, reason, fixed)

    def slot(self, verifying: Pass) -> int | None:
        """The position at which the forward wrote the accepted candidate, for `Pass.moved_from` of the next pass."""
        return None if self.leaf is None else verifying.start + verifying.clean + self.leaf


def _draft_then_verify(row: AnswerRow) -> Program:
    """Drafts of `block_size` tokens by `draft_steps` denoise passes; the last pass fills all masked positions.

    With `draft_backoff`, AR steps (blocks of one token) replace the drafts while drafts cost more than they save.
    """
    plan = row.plan
    backoff = DraftBackoff(plan.settings.draft_steps) if plan.settings.draft_backoff else None
    layout = _fixed_layout(plan, Shape.of(plan.settings.block_size, plan.gated))
    mask = plan.spec.mask_token_id
    opening = yield from row.read_to_last_token()
    number = row.begin.number
    moved_from = None
    while (reason := row.ended or row.append_final([opening])) is None:
        start, first = row.end - 1, len(row.output) - 1
        width = plan.block_width(start) if backoff is None or backoff.drafts_next() else 1
        block = [opening] + [mask] * (width - 1)
        drafts: dict[int, Draft] = {}  # by index into the block

        # 1. Draft. Early passes fix the positions that the policy chooses, the last pass fixes all that remain.
        for step in range(plan.settings.draft_steps):
            masked = [index for index, token in enumerate(block) if token == mask]
            if not masked:
                break
            each = Pass.denoise(block, start, [index - 1 for index in masked])
            predicted = yield replace(each, moved_from=moved_from)
            moved_from = None
            last = step == plan.settings.draft_steps - 1
            chosen = range(len(masked)) if last else plan.positions_to_fix(predicted, step)
            drafts |= {masked[index]: _draft(predicted, index, masked[index]) for index in chosen}
            row.unmask(block, start, masked, predicted, dict.fromkeys(chosen, Reason.DRAFT), number, step)

        # 2. Verify, and keep the drafts that equal AR's tokens. The next pass starts after them, which rolls back the
        # rest.
        leaves = layout.leaves([drafts[index] for index in range(1, width)], width - 1, plan.context_length)
        wanted = range(width + len(leaves))
        verifying = Pass.mixed(block, start, (), wanted, leaves) if leaves else Pass.commit(block, start, wanted)
        predicted = yield replace(verifying, moved_from=moved_from)
        verdict = _Verdict.of(row, predicted, block[1:], leaves)
        moved_from = verdict.slot(verifying)
        if width > 1 and backoff is not None:
            backoff.drafted(verdict.agreed + (verdict.leaf is not None))
        _report(row, number, first, first + width, verdict, leaves)
        if verdict.reason is not None:
            return verdict.reason
        opening = verdict.opening
        number += 1
    return reason


def _draft(predicted: Prediction, index: int, distance: int) -> Draft:
    others = predicted.candidates[index] if predicted.candidates else ()
    return Draft(predicted.tokens[index], predicted.confidence[index], distance, others)


def _report(
    row: AnswerRow,
    number: int,
    first: int,
    stop: int,
    verdict: _Verdict,
    leaves: Sequence[tuple[int, int]],
    drafted: Sequence[Fixed] = (),
) -> None:
    """Emit the event of a verification. first: output position of the last final token. drafted: the next drafts."""
    candidates = tuple((first + distance, token) for distance, token in leaves)
    fixed = (*verdict.fixed, *drafted)
    row.emit(Verify(row.index, row.time, number, first, stop, verdict.accepted, fixed, candidates))


# -- one forward that verifies and drafts -----------------------------------------------------------------


def _verify_and_draft(row: AnswerRow) -> Program:
    """Forwards of the last final token, of drafts to verify as clean rows, and of noise rows for the next drafts."""
    plan = row.plan
    shape = Shape.of(plan.settings.block_size, plan.gated)
    layout = _layout_of(plan, shape, row.batch)
    drafts: list[tuple[Draft, Fixed]] = []  # for the positions after `opening`
    opening = yield from row.read_to_last_token()
    number = row.begin.number
    moved_from = None
    while (reason := row.ended or row.append_final([opening])) is None:
        start, first = row.end - 1, len(row.output) - 1
        choice = layout.choose([draft for draft, _ in drafts], row.limit - len(row.output), plan.end_token_ids)
        clean = [opening, *(draft.token for draft, _ in drafts[: choice.verified])]
        verifying = _pass_of(clean, start, choice, plan)
        predicted = yield replace(verifying, moved_from=moved_from)

        # 1. Accept the drafts that equal AR's tokens, or the candidate that does, and take AR's token after them.
        verdict = _Verdict.of(row, predicted, clean[1:], choice.leaves)
        agreed, moved_from = verdict.agreed, verdict.slot(verifying)
        layout.observe([(draft, token) for (draft, _), token in zip(drafts, predicted.tokens[: agreed + 1])])

        # 2. The next drafts: those after this acceptance point, else what is left of the old ones. They follow the
        # first token that AR has not accepted as a draft.
        index = len(clean) + len(choice.leaves)  # of the first prediction of a group
        left = _after_first(drafts[agreed:], predicted.tokens[agreed])
        for point, count in choice.points:
            if point == agreed:
                left = []
                for at in range(count):
                    made = row.fixed(predicted, index + at, first + agreed + 2 + at, Reason.DRAFT)
                    left.append((_draft(predicted, index + at, at + 1), made))
            index += count
        if verdict.leaf is not None:
            layout.observe([(draft, verdict.opening) for draft, _ in left[:1]])
            left = _after_first(left, verdict.opening)
        drafts = left if verdict.reason is None else []
        _report(row, number, first, first + 1 + choice.reach, verdict, choice.leaves, [each for _, each in drafts])
        if verdict.reason is not None:
            return verdict.reason
        opening = verdict.opening
        number += 1
    return reason


def _after_first(drafts: list[tuple[Draft, Fixed]], token: int) -> list[tuple[Draft, Fixed]]:
    """The drafts after the first one if the first one is AR's token; else none, because they follow a wrong token."""
    return drafts[1:] if drafts and drafts[0][0].token == token else []


def _layout_of(plan: DecodePlan, shape: Shape, rows: int) -> Layout:
    settings = plan.settings
    if settings.draft_layout == "auto":
        return AdaptiveLayout(
            shape, plan.cost, rows, settings.draft_backoff, settings.draft_candidates, plan.cost.without_noise
        )
    return _fixed_layout(plan, shape)


def _fixed_layout(plan: DecodePlan, shape: Shape) -> FixedLayout:
    settings = plan.settings
    return FixedLayout(settings.draft_layout, shape, settings.draft_confidence, settings.draft_candidates)


def _pass_of(clean: Sequence[int], start: int, choice: LayoutChoice, plan: DecodePlan) -> Pass:
    """The pass of a choice: the logits of all clean rows are wanted, then those of the candidates, then those of the
    rows that draft, group by group.

    With a draft adapter, the noise rows follow their anchor, and all draft. A block of the paper's way begins with the
    anchor once more, as a noised token; AR has its prediction already, and the output of the last row was not trained.
    """
    mask = plan.spec.mask_token_id
    index = len(clean) + len(choice.leaves)
    wanted, groups = list(range(index)), []
    for point, count in choice.points:
        if plan.gated:
            groups.append((point + 1, [mask] * count))
            wanted += range(index, index + count)
        else:
            groups.append((point, [clean[point], *[mask] * (count + 1)]))
            wanted += range(index + 1, index + 1 + count)
        index += len(groups[-1][1])
    return Pass.mixed(clean, start, groups, wanted, choice.leaves)
