"""The cost of a batch of prompts of different lengths, compared with the sum of its rows alone.

    python benchmarks/ragged_batch.py
    python benchmarks/ragged_batch.py --model path/to/checkpoint --long 2048 --short 10 --rows 7 --save

One long prompt and several short ones, AR, a few new tokens. A batch costs less than its rows alone, because rows share
the reading of the weights; it would cost more if every row were padded to the long prompt's prefill. CPU seconds of the
process on a CPU, wall seconds on a GPU. The last line is JSON.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tqdm import tqdm

import nbdiff_engine as nb
from benchmarks.measuring import BenchmarkParser, Report, at_least, load_for, run, synchronise, table


def seconds_of(call: Callable[[], object]) -> float:
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    synchronise()
    started = clock()
    call()
    synchronise()
    return clock() - started


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_model()
    parser.add_argument("--long", type=at_least(1), default=768, help="tokens of the long prompt")
    parser.add_argument("--short", type=at_least(1), default=10, help="tokens of each short prompt")
    parser.add_argument("--rows", type=at_least(1), default=7, help="number of short prompts")
    parser.add_argument("--new", type=at_least(1), default=8, help="new tokens of each row")
    parser.add_argument("--rounds", type=at_least(1), default=5)
    parser.add_save()
    options = parser.parse_args()
    report = Report("ragged_batch", options.save)
    figures = {}
    for dtype in options.dtypes:
        model = load_for(options, dtype)
        token = 2 if model.vocab_size > 2 else 0
        prompts = [[token] * options.long, *([[token] * options.short] * options.rows)]

        def decode(chosen: list[list[int]], model: nb.BlockModel = model) -> None:
            settings = {"strategy": "ar", "max_new_tokens": options.new, "ignore_eos": True, "trace": False}
            nb.generate(model, chosen, **settings)

        decode(prompts[1:2])  # warm-up
        ratios, alone_seconds, batch_seconds = [], [], []
        for _ in tqdm(range(options.rounds), desc=dtype, leave=False, disable=None):
            alone_seconds.append(sum(seconds_of(lambda prompt=prompt: decode([prompt])) for prompt in prompts))
            batch_seconds.append(seconds_of(lambda prompts=prompts: decode(prompts)))
            ratios.append(batch_seconds[-1] / alone_seconds[-1])
        figures[dtype] = {
            "alone": statistics.median(alone_seconds),
            "batch": statistics.median(batch_seconds),
            "ratio": statistics.median(ratios),
        }
    report.write(f"{options.model}: {options.long} tokens and {options.rows} x {options.short}, {options.new} new each")
    heads = ("dtype", "rows alone, s", "batch, s", "batch / rows alone")
    rows = [
        (dtype, f"{each['alone']:.2f}", f"{each['batch']:.2f}", f"{each['ratio']:.2f}")
        for dtype, each in figures.items()
    ]
    report.write(table(heads, rows))
    report.finish({"model": options.model, "dtypes": figures})


if __name__ == "__main__":
    run(main)
