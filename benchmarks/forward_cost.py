"""The cost of a forward by block size and context, compared with the bound that the machine sets.

    python benchmarks/forward_cost.py
    python benchmarks/forward_cost.py --model path/to/checkpoint --contexts 128 1024 --save

Medians of a denoise and of a commit pass, relative to AR's pass of one token; all block sizes take turns. The bound is
that of the roofline model: reading weights, keys and values once, at the rate at which this machine reads as many bytes
repeatedly, or computing the products at the rate of one large product, whichever takes longer. The last line is JSON.
"""

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import nbdiff_engine as nb
from benchmarks.measuring import BenchmarkParser, Report, at_least, load_for, ratio, run, table, take_turns
from benchmarks.roofline import MachineLimits, limits_of, work_of
from nbdiff_engine.errors import SettingError

BLOCK_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
CONTEXTS = (64, 128, 256, 512, 900)


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """Milliseconds of passes of one block size over one context."""

    block_size: int
    context: int
    denoise: float
    commit: float
    ratio: float  # a denoise pass / the commit pass of one token, which is AR's forward
    bound: float
    bound_by: str

    @property
    def reached(self) -> float:
        """bound / denoise: 1 for a pass that is as fast as the machine allows."""
        return self.bound / self.denoise


def costs(model: nb.BlockModel, context: int, rounds: int, limits: MachineLimits) -> list[ForwardCost]:
    """The costs of all block sizes over one context, in tokens."""
    token = 2 if model.vocab_size > 2 else 0
    session = model.open(1, context + max(BLOCK_SIZES))
    session.prefill([[token] * context])

    def timed_pass(kind: Callable[[list[list[int]]], object], width: int) -> Callable[[], None]:
        def call() -> None:
            session.rollback([context])  # removes the tokens of an earlier commit pass
            kind([[token] * width])

        return call

    calls = [timed_pass(kind, width) for width in BLOCK_SIZES for kind in (session.denoise, session.commit)]
    for call in calls:
        call()  # warm-up
    seconds = take_turns(calls, rounds, f"context {context}")
    ar = seconds[1]
    found = []
    for index, width in enumerate(BLOCK_SIZES):
        denoised, committed = seconds[2 * index], seconds[2 * index + 1]
        work = work_of(model, width, context)
        found.append(
            ForwardCost(
                block_size=width,
                context=context,
                denoise=1e3 * statistics.median(denoised),
                commit=1e3 * statistics.median(committed),
                ratio=ratio(denoised, ar),
                bound=1e3 * limits.seconds(work),
                bound_by=limits.bound_by(work),
            )
        )
    return found


def main() -> None:
    parser = BenchmarkParser(__doc__)
    parser.add_model()
    parser.add_argument("--contexts", nargs="+", type=at_least(1), default=list(CONTEXTS), help="committed tokens")
    parser.add_argument("--rounds", type=at_least(1), default=30)
    parser.add_save()
    options = parser.parse_args()
    report = Report("forward_cost", options.save)
    figures = {}
    for dtype in options.dtypes:
        model = load_for(options, dtype)
        longest = model.context_length - max(BLOCK_SIZES)
        for context in options.contexts:
            if context > longest:
                raise SettingError(
                    f"A context of {context} and a block of {max(BLOCK_SIZES)} need more than the "
                    f"{model.context_length} positions of {model.name}; give --contexts of at most {longest}."
                )
        limits = limits_of(model)
        report.write(f"\n{model.name}, {dtype}, {torch.get_num_threads()} thread(s). {limits}")
        found = [cost for context in options.contexts for cost in costs(model, context, options.rounds, limits)]
        heads = ("context", "block", "denoise ms", "commit ms", "x 1 token", "per token", "bound ms", "by", "reached")
        rows = [
            (
                each.context, each.block_size, f"{each.denoise:.2f}", f"{each.commit:.2f}", f"{each.ratio:.2f}",
                f"{each.ratio / each.block_size:.2f}", f"{each.bound:.2f}", each.bound_by, f"{each.reached:.0%}",
            )
            for each in found
        ]  # fmt: skip
        report.write(table(heads, rows, left=0))
        figures[dtype] = {
            "limits": asdict(limits),
            "costs": [{**asdict(each), "reached": each.reached} for each in found],
        }
    report.finish({"model": options.model, "dtypes": figures})


if __name__ == "__main__":
    run(main)
