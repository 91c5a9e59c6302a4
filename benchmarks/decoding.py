"""Decoding speed, side by side in one run: our AR, transformers.generate, block diffusion, self-speculation.

    python benchmarks/decoding.py --model nano --json

Every row decodes the same prompts with the same weights, dtype, device and threads, one prompt at a time.
Rows take turns within each round, so that a busy machine slows them alike; a figure is the median of the
rounds. Tokens per second here are output tokens over the whole call, prefill included, because that is all
that transformers.generate lets one time; `Metrics.tokens_per_second` leaves the prefill out. The last line is
JSON.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: two threads else stall beside any other process
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tqdm import tqdm

import nbdiff_engine as nb
from nbdiff_engine.events import Commit, Prefill
from nbdiff_engine.machine_facts import machine_facts
from nbdiff_engine.tasks import DOMAINS, held_out

PROMPTS = tuple(problem.prompt for domain in DOMAINS for problem in held_out(domain, 2))
BLOCK_SIZES = (4, 8, 16, 32)
THRESHOLDS = (0.5, 0.7, 0.9)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Rates and ratios are medians over rounds."""

    name: str
    block_size: int | None
    threshold: float | None
    call_tokens_per_second: float  # output tokens over the whole call, prefill included
    ratio_to_ar: float
    tokens_per_forward: float | None
    identical_to_ar: float  # share of prompts with AR's very tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Contender:
    """Something that answers a list of prompts one by one: token ids and forwards of each."""

    name: str
    run: Callable[[], list[tuple[list[int], int | None]]]
    block_size: int | None = None
    threshold: float | None = None


def ours(model: nb.BlockModel, prompts: list[list[int]], limit: int, name: str, **settings) -> Contender:
    def run() -> list[tuple[list[int], int | None]]:
        outputs = [nb.generate(model, each, max_new_tokens=limit, trace=False, **settings) for each in prompts]
        return [(output.token_ids, output.metrics.decode_forwards) for output in outputs]

    return Contender(name, run, settings.get("block_size"), settings.get("threshold"))


def transformers_generate(model: nb.BlockModel, prompts: list[list[int]], limit: int) -> Contender:
    def run() -> list[tuple[list[int], int | None]]:
        answers = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=model.device)
            with torch.inference_mode():
                out = model.network.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, use_cache=True
                )
            answers.append((out[0, len(prompt) :].tolist(), None))
        return answers

    return Contender("transformers.generate", run)


def contenders(model: nb.BlockModel, prompts: list[list[int]], limit: int) -> list[Contender]:
    rows = [
        ours(model, prompts, limit, "ar", strategy="ar"),
        transformers_generate(model, prompts, limit),
    ]
    for block_size in BLOCK_SIZES:
        rows.append(ours(model, prompts, limit, "self_speculative", strategy="self_speculative", block_size=block_size))
    for block_size in BLOCK_SIZES:
        for threshold in THRESHOLDS:
            settings = {"strategy": "block_diffusion", "block_size": block_size, "threshold": threshold}
            rows.append(ours(model, prompts, limit, "block_diffusion", **settings))
    return rows


def race(rows: list[Contender], rounds: int, label: str) -> list[Row]:
    """Run all contenders `rounds` times in turn, after one warm-up each."""
    answers = [each.run() for each in tqdm(rows, desc=f"{label}: warm-up", leave=False)]
    seconds: list[list[float]] = [[] for _ in rows]
    for _ in tqdm(range(rounds), desc=f"{label}: rounds", leave=False):
        for index, each in enumerate(rows):
            synchronise()
            started = time.perf_counter()
            each.run()
            synchronise()
            seconds[index].append(time.perf_counter() - started)
    ar = [ids for ids, _ in answers[0]]
    ar_rates = [sum(map(len, ar)) / second for second in seconds[0]]
    table = []
    for each, answer, spent in zip(rows, answers, seconds, strict=True):
        tokens = sum(len(ids) for ids, _ in answer)
        rates = [tokens / second for second in spent]
        forwards = [count for _, count in answer if count is not None]
        table.append(
            Row(
                name=each.name,
                block_size=each.block_size,
                threshold=each.threshold,
                call_tokens_per_second=statistics.median(rates),
                ratio_to_ar=statistics.median(rate / base for rate, base in zip(rates, ar_rates, strict=True)),
                tokens_per_forward=(tokens - len(answer)) / sum(forwards) if sum(forwards) else None,
                identical_to_ar=statistics.mean(ids == other for (ids, _), other in zip(answer, ar, strict=True)),
            )
        )
    return table


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def differences(model: nb.BlockModel, prompts: list[list[int]], limit: int) -> list[dict[str, float]]:
    """Where self-speculation and AR part: the position, and how far apart AR's two best tokens were there.

    In float32 there must be none. In bf16 a 1-token and a b-token forward round differently, and a gap near
    zero says that nothing but rounding decided.
    """
    found = []
    for number, prompt in enumerate(prompts):
        events = list(nb.stream(model, prompt, strategy="ar", max_new_tokens=limit))
        ar = list(events[-1].token_ids)
        fixed = [each for event in events if isinstance(event, (Prefill, Commit)) for each in event.fixed]
        for block_size in BLOCK_SIZES:
            fast = nb.generate(
                model, prompt, strategy="self_speculative", block_size=block_size, max_new_tokens=limit, trace=False
            ).token_ids
            if fast != ar:
                at = next(i for i in range(len(ar)) if i >= len(fast) or fast[i] != ar[i])
                best, second = fixed[at].confidence, fixed[at].runners_up[0][1]
                gap = math.log(best / second) if second else math.inf
                found.append({"prompt": number, "block_size": block_size, "position": at, "logit_gap": round(gap, 4)})
    return found


def batch_against_singles(model: nb.BlockModel, prompts: list[list[int]], limit: int, rounds: int) -> dict[str, float]:
    """Total tokens per second of one batch over that of its prompts one by one, for each strategy."""
    ratios = {}
    for strategy in ("ar", "block_diffusion", "self_speculative"):
        settings = {"strategy": strategy, "max_new_tokens": limit, "trace": False}
        if strategy != "ar":
            settings["block_size"] = 16
        together, alone = [], []
        for warm_up in [True] + [False] * rounds:
            started = time.perf_counter()
            nb.generate(model, prompts, **settings)
            synchronise()
            middle = time.perf_counter()
            for prompt in prompts:
                nb.generate(model, prompt, **settings)
            synchronise()
            if not warm_up:
                together.append(middle - started)
                alone.append(time.perf_counter() - middle)
        ratios[strategy] = statistics.median(one / many for one, many in zip(alone, together, strict=True))
    return ratios


def show(table: list[Row], title: str) -> None:
    print(f"\n{title}")
    print(f"{'strategy':22} {'block':>5} {'threshold':>9} {'tokens/s':>9} {'x AR':>6} {'TPF':>5} {'= AR':>6}")
    for row in table:
        block = "" if row.block_size is None else str(row.block_size)
        threshold = "" if row.threshold is None else f"{row.threshold:g}"
        tpf = "" if row.tokens_per_forward is None else f"{row.tokens_per_forward:.2f}"
        print(
            f"{row.name:22} {block:>5} {threshold:>9} {row.call_tokens_per_second:9.0f} {row.ratio_to_ar:6.2f} "
            f"{tpf:>5} {row.identical_to_ar:6.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="nano", help="bundled name, folder or hub id")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, default=None, help="torch threads; default: what the model is fastest with"
    )
    parser.add_argument("--json", action="store_true", help="only the last line, which is JSON")
    options = parser.parse_args()
    if options.rounds < 1 or options.max_new_tokens < 2 or (options.threads or 1) < 1:
        parser.error("--rounds and --threads must be at least 1, --max-new-tokens at least 2")
    report: dict[str, object] = {"model": options.model, "max_new_tokens": options.max_new_tokens}
    try:
        for dtype in options.dtypes:
            model = nb.load(options.model, dtype=dtype, device=options.device)
            if options.threads:
                torch.set_num_threads(options.threads)
            else:
                nb.choose_threads(model)
            prompts = nb.prepare(model, list(PROMPTS)).prompts
            table = race(contenders(model, prompts, options.max_new_tokens), options.rounds, dtype)
            parted = differences(model, prompts, options.max_new_tokens)
            batches = batch_against_singles(model, prompts, options.max_new_tokens, options.rounds)
            report[dtype] = {
                "threads": torch.get_num_threads(),
                "rows": [dataclasses.asdict(row) for row in table],
                "self_speculation_differs": parted,
                "batch_of_8_against_8_singles": batches,
            }
            if not options.json:
                show(table, f"{dtype}, threads: {torch.get_num_threads()}")
                runs = len(prompts) * len(BLOCK_SIZES)
                print(f"self-speculation: {runs - len(parted)} of {runs} outputs identical to AR", *parted, sep="\n  ")
                print("a batch of 8 against 8 single runs:", {key: f"{value:.2f}x" for key, value in batches.items()})
        report["machine"] = machine_facts()
    except nb.NBDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
