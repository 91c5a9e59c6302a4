"""Comparison of each setting with AR, prompt by prompt: verdicts, times, and the first position that differs."""

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest

import torch

from nbdiff_engine.evaluation.report import Answer, AnswerFigures, Comparison, Difference
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.tasks import Problem


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """A model under one setting, and its answer to each problem. greedy: whether it always takes the best token."""

    model: str
    setting: str
    strategy: str
    greedy: bool
    answers: Sequence[Answer]

    def figures(self, answers: Sequence[Answer] | None = None) -> AnswerFigures:
        """The figures of the given answers; None: of all answers."""
        return AnswerFigures.pooled(self.answers if answers is None else answers, self.strategy == "self_speculative")


def against_own_ar(
    this: Answered, ar: Answered, model: BlockModel, prompts: Sequence[list[int]], problems: Sequence[Problem]
) -> Comparison:
    """Compare a setting with AR of the same model. Both were decoded alternately, so their times are comparable."""
    figures, ar_figures = this.figures(), ar.figures()
    differences = _differences(this, ar, model, prompts, problems)
    return dataclasses.replace(
        by_verdicts(this, ar),
        seconds_ratio=_ratio(figures.seconds, ar_figures.seconds),
        tokens_per_second_ratio=_ratio(figures.tokens_per_second, ar_figures.tokens_per_second),
        identical=len(this.answers) - len(differences),
        differences=tuple(differences),
    )


def by_verdicts(this: Answered, baseline: Answered) -> Comparison:
    """Compare the verdicts of any two on the same problems. Two models were not decoded alternately, so their speeds
    are not compared."""
    return Comparison.of(
        (this.model, this.setting),
        (baseline.model, baseline.setting),
        [(one.correct, other.correct) for one, other in zip(this.answers, baseline.answers, strict=True)],
    )


def _differences(
    this: Answered, ar: Answered, model: BlockModel, prompts: Sequence[list[int]], problems: Sequence[Problem]
) -> list[Difference]:
    found = []
    for number, (one, other) in enumerate(zip(this.answers, ar.answers, strict=True)):
        if one.token_ids == other.token_ids:
            continue
        pairs = enumerate(zip_longest(one.token_ids, other.token_ids))
        position = next(at for at, (mine, its) in pairs if mine != its)
        gap = None
        if this.greedy and ar.greedy and position < min(len(one.token_ids), len(other.token_ids)):
            gap = top_two_gap(model, [*prompts[number], *other.token_ids[:position]])
        found.append(Difference(number, problems[number].domain, position, gap))
    return found


def top_two_gap(model: BlockModel, context: Sequence[int]) -> float:
    """The difference of the logits of AR's two best tokens after `context`, without MASK, as in decoding."""
    logits_V = model.open(1, len(context)).prefill([context])[0]
    logits_V[list(model.never_predicted)] = -torch.inf
    best, second = logits_V.topk(2).values.tolist()
    return best - second


def _ratio(this: float | None, baseline: float | None) -> float | None:
    return this / baseline if this is not None and baseline else None
