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
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import nbdiff_engine as nb
from benchmarks.contenders import contenders, load_stock
from benchmarks.decode_split import PARTS, DecodeSplit, split
from benchmarks.measuring import (
    BenchmarkParser,
    Report,
    at_least,
    held_out_prompts,
    load_for,
    run,
    table,
    take_turns,
)
from benchmarks.race import race
from benchmarks.roofline import limits_of, work_of

SPLIT = (
    {"strategy": "ar"},
    {"strategy": "block_diffusion", "block_size": 16, "threshold": 0.9},
    {"strategy": "self_speculative", "block_size": 32},
)
READER_SECONDS = 0.002  # wait of a slow reader after each event


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
            found = race(model, rows, prompts, options.rounds, f"{dtype}, batch {batch}")
            report.write(
                f"\n{model.name}, {dtype}, {own['threads']} thread(s): {len(prompts)} prompts, {batch} at a time, "
                f"answers of at most {options.max_new_tokens} tokens, {options.rounds} rounds\n{found.to_text()}"
            )
            own["batches"][batch] = found.to_json()
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
