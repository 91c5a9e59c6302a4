"""Decoding speed of our AR, transformers, block diffusion and self-speculation in one run, and the time by part.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --model nano --batches 1 --dtypes bfloat16 --prompts 8

Every row answers the same held-out prompts with the same weights, dtype, device and threads. Rows take turns within
each round; a figure is the median over the rounds, and a ratio is the median of the ratios within a round. Tokens per
second are output tokens divided by the time of the whole call, prefill included, because transformers.generate can only
be timed as a whole. "= AR" is the share of prompts whose tokens are exactly those of AR. After the race, the engine's
time is split by part for each strategy, and its forwards are compared with the machine's limits. The last line is JSON.
"""

import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import nbdiff_engine as nb
from benchmarks.contenders import Contender, contenders, load_stock
from benchmarks.decode_split import PARTS, DecodeSplit, split
from benchmarks.measuring import (
    BenchmarkParser,
    Report,
    at_least,
    held_out_prompts,
    load_for,
    ratio,
    run,
    table,
    take_turns,
)
from benchmarks.roofline import limits_of, work_of
from nbdiff_engine.evaluation.pairs import top_two_gap

SPLIT = (
    {"strategy": "ar"},
    {"strategy": "block_diffusion", "block_size": 16, "threshold": 0.9},
    {"strategy": "self_speculative", "block_size": 32},
)


READER_SECONDS = 0.002  # wait of a slow reader after each event


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """The speed of one contender."""

    name: str
    block_size: int | None
    policy: str | None
    tokens_per_second: float  # output tokens / seconds of the whole call
    x_ar: float
    x_transformers: float
    tokens_per_forward: float | None
    equal_to_ar: float  # share of prompts
    lossless: bool  # whether its tokens must equal those of AR, except for rounding


@dataclass(frozen=True, slots=True)
class Difference:
    """The first position where the tokens of a lossless row differ from AR's.

    logit_gap: between AR's two best tokens at that position; a small one means a difference by rounding.
    """

    name: str
    block_size: int | None
    prompt: int
    position: int
    logit_gap: float


def race(model: nb.BlockModel, rows: Sequence[Contender], prompts: list[list[int]], rounds: int, label: str):
    """The rows of the table, and the differences of lossless rows from AR."""
    answers = [each.run() for each in rows]  # also the warm-up
    seconds = take_turns([each.run for each in rows], rounds, label)
    rates = [[answer.tokens / spent for spent in own] for answer, own in zip(answers, seconds, strict=True)]
    ar = answers[0].token_ids
    found, differences = [], []
    for each, answer, own in zip(rows, answers, rates, strict=True):
        found.append(
            SpeedRow(
                name=each.name,
                block_size=each.block_size,
                policy=each.policy,
                tokens_per_second=statistics.median(own),
                x_ar=ratio(own, rates[0]),
                x_transformers=ratio(own, rates[1]),
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
    return found, differences


def _difference(
    model: nb.BlockModel, row: Contender, number: int, prompt: list[int], found: list[int], ar: list[int]
) -> Difference:
    shared = next(
        (at for at, (one, other) in enumerate(zip(found, ar)) if one != other), min(len(found), len(ar))
    )  # if one answer is a prefix of the other, they differ at its end
    gap = top_two_gap(model, [*prompt, *ar[:shared]])
    return Difference(row.name, row.block_size, number, shared, gap)


def race_table(rows: Sequence[SpeedRow]) -> str:
    heads = ("row", "block", "policy", "tokens/s", "x AR", "x transformers", "TPF", "= AR")
    cells = [
        (
            each.name, each.block_size, each.policy, f"{each.tokens_per_second:.0f}", f"{each.x_ar:.2f}",
            f"{each.x_transformers:.2f}", each.tokens_per_forward and f"{each.tokens_per_forward:.2f}",
            f"{each.equal_to_ar:.0%}",
        )
        for each in rows
    ]  # fmt: skip
    return table(heads, cells)


def split_table(splits: Sequence[DecodeSplit]) -> str:
    heads = ("batch", "strategy", "forwards", "ms a forward", *PARTS, "overhead", "untimed", "held ms", "idle")
    cells = [
        (
            each.batch, each.strategy, each.forwards, f"{1e3 * each.engine / each.forwards:.2f}",
            *(f"{each.parts[part] / each.engine:.1%}" for part in PARTS), f"{each.overhead:.1%}",
            f"{each.untimed / each.engine:.0%}", f"{1e3 * each.held:g}", f"{each.idle / (each.engine + each.idle):.1%}",
        )
        for each in splits
    ]  # fmt: skip
    return table(heads, cells, left=2)


def roofline(model: nb.BlockModel, context: int) -> list[dict[str, Any]]:
    """Denoise passes of 1 token (an AR forward), 16 and 32 tokens, compared with the machine's limits."""
    limits = limits_of(model)
    session = model.open(1, context + 32)
    session.prefill([[2] * context])
    lines = []
    widths = (1, 16, 32)
    calls = [lambda width=width: session.denoise([[2] * width]) for width in widths]
    for width, spent in zip(widths, take_turns(calls, 20, "roofline"), strict=True):
        work, seconds = work_of(model, width, context), statistics.median(spent)
        bound = limits.seconds(work)
        lines.append(
            {
                "width": width,
                "megabytes": work.bytes / 1e6,
                "megaflops": work.flops / 1e6,
                "milliseconds": 1e3 * seconds,
                "bound_milliseconds": 1e3 * bound,
                "bound_by": limits.bound_by(work),
                "reached": bound / seconds,
            }
        )
    return [{"limits": asdict(limits), "said": str(limits)}, *lines]


def roofline_text(lines: Sequence[dict[str, Any]], context: int) -> str:
    heads = ("tokens", "MB", "MFLOP", "ms", "bound ms", "by", "reached")
    cells = [
        (
            each["width"], f"{each['megabytes']:.1f}", f"{each['megaflops']:.0f}", f"{each['milliseconds']:.2f}",
            f"{each['bound_milliseconds']:.2f}", each["bound_by"], f"{each['reached']:.0%}",
        )
        for each in lines[1:]
    ]  # fmt: skip
    return f"{lines[0]['said']}; a forward over {context} committed tokens:\n" + table(heads, cells, left=0)


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_model()
    parser.add_argument("--assistant", default="nano-ar", help="model for transformers' assisted generation, or none")
    parser.add_argument("--batches", nargs="+", type=at_least(1), default=[1, 4, 16])
    parser.add_argument("--prompts", type=at_least(1), default=16)
    parser.add_argument("--max-new-tokens", type=at_least(2), default=128)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_save()
    options = parser.parse_args()
    report = Report("decoding", options.save)
    figures: dict[str, Any] = {}
    for dtype in options.dtypes:
        model = load_for(options, dtype)
        assistant = None if options.assistant == "none" else options.assistant
        stock, other = load_stock(model, options.model, assistant)
        prompts = nb.prepare(model, held_out_prompts(options.prompts)).prompts
        figures[dtype] = own = {"threads": torch.get_num_threads(), "batches": {}, "splits": []}
        for batch in options.batches:
            rows = contenders(model, stock, other, prompts, options.max_new_tokens, batch)
            found, differences = race(model, rows, prompts, options.rounds, f"{dtype}, batch {batch}")
            report.write(
                f"\n{model.name}, {dtype}, {own['threads']} thread(s): {len(prompts)} prompts, {batch} at a time, "
                f"answers of at most {options.max_new_tokens} tokens, {options.rounds} rounds\n" + race_table(found)
            )
            for each in differences:
                size = f", blocks of {each.block_size}" if each.block_size else ""
                report.write(
                    f"not AR's tokens: {each.name}{size}, prompt {each.prompt}, from token {each.position}; "
                    f"AR's two best logits differ by {each.logit_gap:.4f} there"
                )
            own["batches"][batch] = {
                "rows": [asdict(each) for each in found],
                "differences": [asdict(each) for each in differences],
            }
        strategies = SPLIT if model.spec is not None else SPLIT[:1]
        splits = [
            split(model, prompts[:batch], options.rounds, held, max_new_tokens=options.max_new_tokens, **settings)
            for batch, held in dict.fromkeys([(1, 0.0), (max(options.batches), 0.0), (1, READER_SECONDS)])
            for settings in strategies
        ]
        report.write(
            f"\nThe engine's time, {dtype} (overhead: time outside the network; idle: time of the reader of the events)"
        )
        report.write(split_table(splits))
        own["splits"] = [{**asdict(each), "overhead": each.overhead} for each in splits]
        context = min(128, model.context_length - 32)
        own["roofline"] = roofline(model, context)
        report.write(f"\n{dtype}. " + roofline_text(own["roofline"], context))
    report.finish({"model": options.model, "max_new_tokens": options.max_new_tokens, "dtypes": figures})


if __name__ == "__main__":
    run(main)
