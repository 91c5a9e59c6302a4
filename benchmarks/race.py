"""The race of the decoding benchmarks: contenders take turns on the same prompts; its table and its JSON."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import nbdiff_engine as nb
from benchmarks.contenders import TRANSFORMERS, Answers, Contender
from benchmarks.measuring import ratio, table, take_turns
from nbdiff_engine.evaluation.pairs import top_two_gap


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """The speed of one contender."""

    name: str
    block_size: int | None
    policy: str | None
    tokens_per_second: float  # output tokens / seconds of the whole call
    x_ar: float
    x_transformers: float | None  # None in a race without transformers.generate
    tokens_per_forward: float | None
    equal_to_ar: float  # share of prompts
    lossless: bool  # whether its tokens must equal those of AR, except for rounding


@dataclass(frozen=True, slots=True)
class RaceDifference:
    """The first position where the tokens of a lossless row differ from AR's.

    logit_gap: between AR's two best tokens at that position; a small one means a difference by rounding.
    """

    name: str
    block_size: int | None
    prompt: int
    position: int
    logit_gap: float

    def __str__(self) -> str:
        size = f", blocks of {self.block_size}" if self.block_size else ""
        return (
            f"not AR's tokens: {self.name}{size}, prompt {self.prompt}, from token {self.position}; "
            f"AR's two best logits differ by {self.logit_gap:.4f} there"
        )


@dataclass(frozen=True, slots=True)
class RaceResult:
    """The rows of a race, and the differences of its lossless rows from AR."""

    rows: list[SpeedRow]
    differences: list[RaceDifference]

    def to_text(self) -> str:
        """The table of the rows, and a line for each difference."""
        return "\n".join([_table(self.rows), *map(str, self.differences)])

    def to_json(self) -> dict[str, Any]:
        """The race for the JSON line of a benchmark."""
        return {
            "rows": [asdict(each) for each in self.rows],
            "differences": [asdict(each) for each in self.differences],
        }


def race(
    model: nb.BlockModel, rows: Sequence[Contender], prompts: list[list[int]], rounds: int, label: str
) -> RaceResult:
    """Let the rows answer the prompts in turns. The first row is AR. label: of the progress bar."""
    answers = [each.run() for each in rows]  # also the warm-up
    seconds = take_turns([each.run for each in rows], rounds, label)
    rates = [[answer.tokens / spent for spent in own] for answer, own in zip(answers, seconds, strict=True)]
    return _result(model, rows, answers, rates, prompts)


def race_by_prompt(
    model: nb.BlockModel, turns: Sequence[Sequence[Contender]], prompts: list[list[int]], label: str
) -> RaceResult:
    """Let the rows take turns on each prompt, once. turns: the same rows for each prompt. A rate is of all prompts.

    The rows are measured within seconds of each other, so that other load on the machine slows all of them, and a
    long race needs no second run.
    """
    for each in turns[0]:
        each.run()  # a warm-up
    answers: list[list[Answers]] = [[] for _ in turns[0]]

    def next_answer_of(index: int) -> Callable[[], None]:
        remaining = iter(turns)
        return lambda: answers[index].append(next(remaining)[index].run())

    seconds = take_turns([next_answer_of(index) for index in range(len(answers))], len(turns), label)
    joined = [Answers.joined(own) for own in answers]
    rates = [[own.tokens / sum(spent)] for own, spent in zip(joined, seconds, strict=True)]
    return _result(model, turns[0], joined, rates, prompts)


def _result(
    model: nb.BlockModel,
    rows: Sequence[Contender],
    answers: Sequence[Answers],
    rates: Sequence[list[float]],
    prompts: list[list[int]],
) -> RaceResult:
    """rates: tokens per second of each row in each round."""
    ar = answers[0].token_ids
    stock = next((own for row, own in zip(rows, rates, strict=True) if row.name == TRANSFORMERS), None)
    found, differences = [], []
    for each, answer, own in zip(rows, answers, rates, strict=True):
        found.append(
            SpeedRow(
                name=each.name,
                block_size=each.block_size,
                policy=each.policy,
                tokens_per_second=statistics.median(own),
                x_ar=ratio(own, rates[0]),
                x_transformers=None if stock is None else ratio(own, stock),
                tokens_per_forward=answer.tokens_per_forward,
                equal_to_ar=statistics.mean(one == other for one, other in zip(answer.token_ids, ar, strict=True)),
                lossless=each.lossless,
            )
        )
        if each.lossless:
            differences += [
                _difference(model, each, number, prompts[number], one, other)
                for number, (one, other) in enumerate(zip(answer.token_ids, ar, strict=True))
                if one != other
            ]
    return RaceResult(found, differences)


def _difference(
    model: nb.BlockModel, row: Contender, number: int, prompt: list[int], found: list[int], ar: list[int]
) -> RaceDifference:
    shared = next(
        (at for at, (one, other) in enumerate(zip(found, ar)) if one != other), min(len(found), len(ar))
    )  # if one answer is a prefix of the other, they differ at its end
    gap = top_two_gap(model, [*prompt, *ar[:shared]])
    return RaceDifference(row.name, row.block_size, number, shared, gap)


def _table(rows: Sequence[SpeedRow]) -> str:
    heads = ("row", "block", "policy", "tokens/s", "x AR", "x transformers", "TPF", "= AR")
    cells = [
        (
            each.name,
            each.block_size,
            each.policy,
            f"{each.tokens_per_second:.0f}",
            *(value and f"{value:.2f}" for value in (each.x_ar, each.x_transformers, each.tokens_per_forward)),
            f"{each.equal_to_ar:.0%}",
        )
        for each in rows
    ]
    return table(heads, cells)
