"""Shared by the benchmarks: command-line options, timing in turns, tables, and the printed report.

Another process can slow the machine for a moment, and this must not decide which of two rows is faster. Therefore rows
take turns: each runs once in each round. A ratio is computed within a round; the result is the median over the rounds.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

import nbdiff_engine as nb
from nbdiff_engine.errors import SettingError, brief
from nbdiff_engine.evaluation.machine_facts import MachineFacts, machine_facts
from nbdiff_engine.tasks import DOMAINS, held_out

RESULTS = Path(__file__).resolve().parent / "results"
DTYPES = ("float32", "bfloat16")


# -- options -------------------------------------------------------------------------------------------------


class BenchmarkParser(argparse.ArgumentParser):
    """An argument parser that reports bad input in one sentence, with exit code 2."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")

    def add_model(self) -> None:
        self.add_argument("--model", default="nano", help="bundled name, folder or hub id")
        self.add_argument("--device", default="auto")
        self.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
        self.add_argument(
            "--threads", type=at_least(1), help="torch threads; default: the number with which the model is fastest"
        )

    def add_save(self) -> None:
        self.add_argument(
            "--save",
            action="store_true",
            help="also write the output to benchmarks/results/NAME-cpu.txt or NAME-gpu.txt",
        )


def at_least(least: int) -> Callable[[str], int]:
    """A parser of an option that must be an integer of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"the value is {brief(text)}; it must be an integer of at least {least}")
        return value

    return parse


def run(main: Callable[[], None]) -> None:
    """Call a script's main. An NBDiffError becomes one sentence on standard error and exit code 2."""
    try:
        main()
    except nb.NBDiffError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


# -- models, prompts and timing ------------------------------------------------------------------------------


def load_for(options: argparse.Namespace, dtype: str) -> nb.BlockModel:
    """Load the model of `--model` and set torch's threads for it."""
    model = nb.load(options.model, dtype=dtype, device=options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    else:
        nb.choose_threads(model)
    return model


def held_out_prompts(count: int) -> list[str]:
    """The first `count` held-out prompts, in turn from each domain. Raises SettingError if there are fewer."""
    domains = [held_out(domain) for domain in DOMAINS]
    prompts = [problem.prompt for each in zip(*domains, strict=True) for problem in each]
    if count > len(prompts):
        raise SettingError(f"{count} prompts are requested, but there are only {len(prompts)} held-out problems.")
    return prompts[:count]


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    synchronise()
    started = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - started


def take_turns(calls: Sequence[Callable[[], object]], rounds: int, label: str) -> list[list[float]]:
    """Seconds of each call in each round: [calls][rounds]. No warm-up; each round starts with the next call."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in tqdm(range(rounds), desc=label, leave=False, disable=None):
        for turn in range(len(calls)):
            index = (number + turn) % len(calls)
            seconds[index].append(timed(calls[index]))
    return seconds


def ratio(these: Sequence[float], base: Sequence[float]) -> float:
    """Median over the rounds of these / base."""
    return statistics.median(one / other for one, other in zip(these, base, strict=True))


# -- output --------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Lines of aligned columns: the first `left` columns to the left, the others to the right. None: an empty cell."""
    cells = [list(heads), *[["" if each is None else str(each) for each in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = []
    for row in cells:
        parts = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def machine_line(facts: MachineFacts) -> str:
    where = facts.gpu or f"{facts.cpu}, {facts.cores} cores"
    versions = f"torch {facts.torch}, transformers {facts.transformers}, python {facts.python}"
    return f"{where}; {versions}; {facts.date}"


class Report:
    """The output of a benchmark: the command, the machine, the tables, and JSON in the last line."""

    def __init__(self, name: str, save: bool):
        """name: of the script. save: whether `finish` also writes the text to a file."""
        self.name = name
        self.save = save
        self.machine = machine_facts()
        self._lines: list[str] = []
        command = " ".join(each for each in sys.argv[1:] if each != "--save")
        self.write(f"$ python benchmarks/{name}.py {command}".rstrip())
        self.write(machine_line(self.machine))

    def write(self, text: str = "") -> None:
        print(text, flush=True)
        self._lines.append(text)

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Print the figures as JSON, the last line, and save the text if `save` is set. Raises SettingError."""
        self.write(json.dumps({**figures, "machine": self.machine.to_json()}))
        if self.save:
            path = RESULTS / f"{self.name}-{'gpu' if self.machine.gpu else 'cpu'}.txt"
            try:
                path.parent.mkdir(exist_ok=True)
                path.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
            except OSError as error:
                raise SettingError(f"The results cannot be written to {path}: {error.strerror or error}.") from error
            print(f"saved to {path.relative_to(RESULTS.parent.parent)}", file=sys.stderr)
