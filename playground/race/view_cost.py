"""The cost of the page's view on the server: the same answers are decoded with and without it, alternately.

    python -m playground.race.view_cost --pairs 20 --tokens 512

"engine" is the clock of all figures on the page; it is paused while a reader works. "wall" is the time that a visitor
waits, with the work of the view: frames, top_logprobs, the log. Each cost is the median over the pairs of
(with / without - 1). The output is one line of JSON. benchmarks/view.py runs this module and prints a table.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

import nbdiff_engine as nb
from nbdiff_engine.decoding.settings import STRATEGIES
from playground.race.frames import LaneDone, lane_frames
from playground.server.worker import RunPart, Worker

PROMPT = "Tell me a story in the forest with Mia, a purple wagon and a mouse."
BLOCK_SIZE = 16
POLL_SECONDS = 0.05


def without_view(model: nb.BlockModel, settings: dict[str, Any]) -> tuple[float, float]:
    """Seconds of the engine's clock and of the wall clock."""
    started = time.perf_counter()
    out = nb.generate(model, PROMPT, trace=False, **settings)
    return out.metrics.decode_seconds, time.perf_counter() - started


def with_view(model: nb.BlockModel, settings: dict[str, Any]) -> tuple[float, float]:
    """The same with the playground's worker and a poll every POLL_SECONDS."""
    job = nb.prepare(model, PROMPT, **settings)
    worker = Worker()
    worker.start()
    times: list[float] = []

    def frames():
        started = time.perf_counter()
        yield from lane_frames("lane", "", job)
        times.append(time.perf_counter() - started)

    run = worker.submit([RunPart("lane", frames)])
    cursor, seconds = 0, None
    while seconds is None:
        reply = worker.poll(run, "reader", cursor)
        cursor = reply.cursor
        done = next((each.frame for each in reply.frames if isinstance(each.frame, LaneDone)), None)
        seconds = None if done is None else done.metrics.decode_seconds
        time.sleep(0 if reply.more else POLL_SECONDS)
    worker.close()
    return seconds, times[0]


def compare(model: nb.BlockModel, settings: dict[str, Any], pairs: int) -> dict[str, float]:
    """Relative cost of the view over pairs of runs, whose order alternates."""
    engine, wall, rates = [], [], []
    for number in tqdm(range(pairs + 1), desc=settings["strategy"], leave=False, disable=None):
        both: dict[Callable, tuple[float, float]] = {}
        for way in (without_view, with_view) if number % 2 else (with_view, without_view):
            both[way] = way(model, settings)
        if number:  # the first pair warms up
            engine.append(both[with_view][0] / both[without_view][0] - 1)
            wall.append(both[with_view][1] / both[without_view][1] - 1)
            rates.append((settings["max_new_tokens"] - 1) / both[without_view][0])
    return {
        "engine": statistics.median(engine),
        "wall": statistics.median(wall),
        "tokens_per_second_without": statistics.median(rates),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of runs for each strategy")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of an answer")
    options = parser.parse_args()
    model = nb.load("nano")
    nb.choose_threads(model)
    costs = {}
    for strategy in STRATEGIES:
        settings = {"strategy": strategy, "max_new_tokens": options.tokens, "ignore_eos": True}
        if strategy != "ar":
            settings["block_size"] = BLOCK_SIZE
        costs[strategy] = compare(model, settings, options.pairs)
    print(json.dumps(costs))


if __name__ == "__main__":
    main()
