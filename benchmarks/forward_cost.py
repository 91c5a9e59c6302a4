"""What a forward costs as the block and the context grow, and how near that is to what the machine could do.

    python benchmarks/forward_cost.py
    python benchmarks/forward_cost.py --model path/to/checkpoint --contexts 128 1024 --save

Medians of a denoise and of a commit pass, all block sizes by turns, against the pass of one token that AR makes. The
bound is the roofline's: weights, keys and values read once at the speed this machine reads as much from its caches, or
the products at the speed of a large one, whichever takes longer. The last line is JSON.
"""

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: two threads else stall beside any other process
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import nbdiff_engine as nb
from benchmarks.measuring import Options, Report, at_least, load_for, ratio, run, table, take_turns
from benchmarks.roofline import Limits, limits_of, work_of
from nbdiff_engine.errors import SettingError

BLOCK_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
CONTEXTS = (64, 128, 256, 512, 900)


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of passes of one width over one context."""

    block_size: int
    context: int
    denoise: float
    commit: float
    ratio: float  # a denoise pass against the commit pass of one token, AR's forward
    bound: float
    bound_by: str

    @property
    def reached(self) -> float:
        """The share of the machine's limit that a denoise pass reaches."""
        return self.bound / self.denoise


def costs(model: nb.BlockModel, context: int, rounds: int, limits: Limits) -> list[Cost]:
    """The costs of all block sizes over one context."""
    token = 2 if model.vocab_size > 2 else 0
    session = model.open(1, context + max(BLOCK_SIZES))
    session.prefill([[token] * context])

    def timed_pass(kind: Callable[[list[list[int]]], object], width: int) -> Callable[[], None]:
        def call() -> None:
            session.rollback([context])  # a commit before this pass is forgotten
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
            Cost(
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
    parser = Options(__doc__)
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
                    f"A context of {context} and a block of {max(BLOCK_SIZES)} are more than the "
                    f"{model.context_length} positions of {model.name}; give --contexts of at most {longest}."
                )
        limits = limits_of(model)
        report.say(f"\n{model.name}, {dtype}, {torch.get_num_threads()} thread(s). {limits}")
        found = [cost for context in options.contexts for cost in costs(model, context, options.rounds, limits)]
        heads = ("context", "block", "denoise ms", "commit ms", "x 1 token", "per token", "bound ms", "by", "reached")
        rows = [
            (
                each.context, each.block_size, f"{each.denoise:.2f}", f"{each.commit:.2f}", f"{each.ratio:.2f}",
                f"{each.ratio / each.block_size:.2f}", f"{each.bound:.2f}", each.bound_by, f"{each.reached:.0%}",
            )
            for each in found
        ]  # fmt: skip
        report.say(table(heads, rows, left=0))
        figures[dtype] = {
            "limits": asdict(limits),
            "costs": [{**asdict(each), "reached": each.reached} for each in found],
        }
    report.finish({"model": options.model, "dtypes": figures})


if __name__ == "__main__":
    run(main)
