"""The cost of an adaptation step: seconds relative to an AR step on the same rows, and peak memory with its estimate.

    python -m benchmarks.adaptation
    python -m benchmarks.adaptation --shape 1x8192 --precision fp32 --save

A network with random weights and the sizes of nano is trained on the project's corpus. All kinds of step alternate in
one process. The seconds are the median of a kind's steps and contain forward, backward and optimiser, but not the
noising, because a run noises the next batch during the current step. "x AR" is relative to the fastest AR step
measured. Each peak is that of a run of two steps in its own process, because the recorded peak of a process never
decreases. The last line is JSON.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import yaml
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from benchmarks.adaptation_steps import Kind, Stepper, StepSplit
from nbdiff_engine.evaluation.machine_facts import machine_facts
from nbdiff_engine.model.checkpoint_folders import bundled_models
from training.planning.costs import MEMORY_MARGIN
from training.planning.estimate import estimate
from training.recipe.recipe import Recipe

RESULTS = ROOT / "benchmarks" / "results"
BLOCK = 32
AR, AR_DENSE = Kind("AR", "documents", 1), Kind("AR, dense mask", "dense", 1)
DENSE, DOCUMENTS = Kind("masked pass, dense mask", "dense", BLOCK), Kind("masked pass, documents", "documents", BLOCK)
RECOMPUTED = Kind("  with layers recomputed", "documents", BLOCK, recomputed=True)
AR_FLEX, FLEX = Kind("AR, FlexAttention", "flex", 1), Kind("masked pass, FlexAttention", "flex", BLOCK)


@dataclass(frozen=True, slots=True)
class StepCost:
    """The cost of one kind of step at one shape."""

    kind: str
    attention: str
    block_size: int
    precision: str
    rows: int
    length: int
    vocabulary: int
    seconds: float | None
    x_ar: float | None
    clean_tokens_per_second: float | None
    peak_bytes: int | None
    estimated_bytes: int | None


def random_base(folder: Path, context: int, vocabulary: int) -> Path:
    """Write a network of random weights to `folder`, with the sizes of nano-ar but this context and vocabulary."""
    bundled = bundled_models()["nano-ar"]
    config = AutoConfig.from_pretrained(bundled, max_position_embeddings=context, vocab_size=vocabulary)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled).save_pretrained(folder)
    return folder


def recipe_of(base: Path, rows: int, length: int, kind: Kind, precision: str, data: str = "corpus") -> Recipe:
    return Recipe.model_validate(
        {
            "base": str(base),
            "data": {"source": data, "held_out": 1, "raw": data != "corpus"},
            "blocks": {"kind": "fixed", "b_max": kind.block_size},
            "optimisation": {
                "max_steps": 2,  # the first step creates the optimiser's state, so the second has the peak
                "packed_length": length,
                "rows": rows,
                "gradient_checkpointing": kind.recomputed,
            },
            "attention": kind.attention,
            "precision": precision,
            "saving": {"save_every": 1000, "eval_every": 0, "probes": False},
        }
    )


def peak_of(recipe: Recipe, folder: Path) -> int:
    """Bytes by which the memory of a new process grows, at its peak, while it runs the recipe."""
    folder.mkdir()
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
    program = [sys.executable, "-m", "benchmarks.adaptation", "--worker", str(file), str(folder / "run")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"A measured run failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"]


def run_worker(file: str, folder: str) -> None:
    """Run a recipe in this process and print its peak memory as JSON."""
    from training.run.launch import start

    recipe = Recipe.read(file)
    before = process_memory("VmRSS")
    start(recipe, Path(folder), resume=False)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else process_memory("VmHWM") - before
    print(json.dumps({"peak_bytes": peak}))


def process_memory(name: str) -> int:
    """A size of this process in bytes. name: "VmRSS" (resident memory) or "VmHWM" (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure_shape(
    rows: int, length: int, precision: str, steps: int, folder: Path, bar: tqdm
) -> tuple[list[StepCost], dict[str, StepSplit]]:
    """The costs of all kinds of step at one shape, and the time of two of them by operation."""
    cuda = torch.cuda.is_available()
    kinds = [AR_FLEX, FLEX, DENSE] if cuda else [AR, AR_DENSE, DENSE, DOCUMENTS, RECOMPUTED]
    device = "cuda" if cuda else "cpu"
    base = random_base(folder / f"base-{rows}x{length}-{precision}", max(length, 1024), 1536)
    bar.set_description(f"{rows} x {length} {precision}")
    stepper = Stepper(recipe_of(base, rows, length, kinds[-1], precision), device)
    seconds: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    for _ in range(steps):
        for kind in kinds:
            seconds[kind.name].append(stepper.step(kind))
            bar.update()
    splits = {kind.name: stepper.split(kind) for kind in kinds if kind in (AR, DOCUMENTS)}
    fastest = min(median(seconds[kind.name]) for kind in kinds if kind.block_size == 1)
    found = []
    for number, kind in enumerate(kinds):
        recipe = recipe_of(base, rows, length, kind, precision)
        peak = peak_of(recipe, folder / f"run-{rows}x{length}-{precision}-{number}")
        bar.update()
        took = median(seconds[kind.name])
        numbers = took, took / fastest, stepper.clean_tokens / took, peak
        estimated = estimate(recipe, device, 1e12).memory.peak
        found.append(
            StepCost(kind.name, kind.attention, kind.block_size, precision, rows, length, 1536, *numbers, estimated)
        )
    return found, splits


def measure_peaks(shapes: list[tuple[int, int, int, Kind]], folder: Path, bar: tqdm) -> list[StepCost]:
    """Peak memory at (rows, length, vocabulary, kind) of each of `shapes`. Each row holds one document."""
    text = folder / "text.txt"
    if not text.exists():  # one document that is longer than any row
        text.write_text("The cat sees the old house and the bird finds a tree. " * 8000, encoding="utf-8")
    found = []
    for rows, length, vocabulary, kind in shapes:
        name = f"{rows}x{length}x{vocabulary}-{kind.attention}-{kind.block_size}"
        bar.set_description(f"memory {name}")
        base = random_base(folder / f"memory-base-{name}", max(length, 1024), vocabulary)
        recipe = recipe_of(base, rows, length, kind, "bf16", str(text))
        peak = peak_of(recipe, folder / f"memory-{name}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        estimated = estimate(recipe, device, 1e12).memory.peak
        step = kind.name, kind.attention, kind.block_size, "bf16", rows, length, vocabulary
        found.append(StepCost(*step, None, None, None, peak, estimated))
        bar.update()
    return found


def table_of_steps(rows: list[StepCost]) -> str:
    lines = [f"{'step':28} {'seconds':>8} {'x AR':>6} {'tokens/s':>9} {'peak':>10} {'estimated':>10}"]
    for row in rows:
        lines.append(
            f"{row.kind:28} {row.seconds:8.2f} {row.x_ar:6.2f} {row.clean_tokens_per_second:9,.0f} "
            f"{row.peak_bytes / 2**20:6.0f} MiB {row.estimated_bytes / 2**20:6.0f} MiB"
        )
    if not torch.cuda.is_available():
        lines.append(f"{FLEX.name:28} not on a CPU: no backward")
    return "\n".join(lines)


def table_of_splits(splits: dict[str, StepSplit]) -> str:
    names = list(StepSplit.__dataclass_fields__)
    lines = [f"{'share of a step, %':28} " + " ".join(f"{name:>10}" for name in names)]
    for kind, split in splits.items():
        total = sum(asdict(split).values())
        lines.append(f"{kind:28} " + " ".join(f"{100 * getattr(split, name) / total:10.1f}" for name in names))
    return "\n".join(lines)


def table_of_peaks(rows: list[StepCost]) -> str:
    lines = [f"{'step':28} {'rows':>6} {'vocabulary':>10} {'peak':>10} {'estimated':>10} {'off':>6}"]
    for row in rows:
        shape = f"{row.rows}x{row.length}"
        off = 100 * (row.estimated_bytes / row.peak_bytes - 1)
        lines.append(
            f"{row.kind:28} {shape:>6} {row.vocabulary:10} {row.peak_bytes / 2**20:6.0f} MiB "
            f"{row.estimated_bytes / 2**20:6.0f} MiB {off:+5.0f}%"
        )
    return "\n".join(lines)


def shape(text: str) -> tuple[int, int]:
    """`nano`, `long`, or ROWSxLENGTH."""
    text = {"nano": "64x128", "long": "1x8192"}.get(text, text)
    rows, _, length = text.partition("x")
    if not (rows.isdecimal() and length.isdecimal() and int(rows) >= 1 and int(length) >= 64):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a shape; give nano, long or ROWSxLENGTH, with a length of at least 64 tokens"
        )
    return int(rows), int(length)


def report(options: argparse.Namespace) -> dict:
    """Measure, print the tables, and return the contents of the JSON line."""
    by_length = [
        (1, length, 1536, kind)
        for length in (512, 2048, 8192)
        for kind in (DOCUMENTS, DENSE)
        if kind is DOCUMENTS or length < 8192
    ]
    by_vocabulary = [(4, 512, vocabulary, kind) for vocabulary in (1536, 32_000, 152_000) for kind in (AR, DOCUMENTS)]
    memory = [] if options.no_memory or torch.cuda.is_available() else [by_vocabulary, by_length]
    shapes = options.shape or [(64, 128), (1, 8192)]
    kinds = 3 if torch.cuda.is_available() else 5
    steps = {each: options.steps or (4 if each[1] < 4096 else 2) for each in shapes}
    turns = len(options.precision) * sum(kinds * (steps[each] + 1) for each in shapes)
    rows, splits = [], {}
    with (
        tempfile.TemporaryDirectory() as temporary,
        tqdm(total=turns + sum(map(len, memory)), file=sys.stderr, desc="steps") as bar,
    ):
        for each in shapes:
            for precision in options.precision:
                found, split = measure_shape(*each, precision, steps[each], Path(temporary), bar)
                rows += found
                splits[f"{each[0]}x{each[1]} {precision}"] = split
                with bar.external_write_mode(sys.stdout):
                    print(f"\n{each[0]} rows of {each[1]} tokens, nano's sizes, blocks of {BLOCK}, {precision}")
                    print(table_of_steps(found))
                    print(table_of_splits(split))
        for title, shapes_of in zip(("vocabulary", "length"), memory, strict=False):
            found = measure_peaks(shapes_of, Path(temporary), bar)
            rows += found
            with bar.external_write_mode(sys.stdout):
                print(
                    f"\npeak memory against {title}, bf16, rows of one document, estimates hold to {MEMORY_MARGIN:.0%}"
                )
                print(table_of_peaks(found))
    return {
        "rows": [asdict(row) for row in rows],
        "splits": {name: {kind: asdict(split) for kind, split in each.items()} for name, each in splits.items()},
        "machine": machine_facts().to_json(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shape", type=shape, action="append", help="nano (64x128), long (1x8192) or ROWSxLENGTH")
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), action="append", help="default: bf16; may be given twice"
    )
    parser.add_argument("--steps", type=int, help="steps of each kind; default: 4, or 2 for long rows")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the tables of peak memory by vocabulary and length"
    )
    parser.add_argument("--save", action="store_true", help=f"also write {RESULTS.name}/adaptation-nano-DEVICE.txt")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run_worker(*options.worker)
        return
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps is {options.steps}; it must be at least 1")
    options.precision = options.precision or ["bf16"]
    transformers_logging.disable_progress_bar()  # they would appear when networks are saved
    text = io.StringIO()
    with contextlib.redirect_stdout(Tee(sys.stdout, text)):
        print(json.dumps(report(options)))
    if options.save:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        (RESULTS / f"adaptation-nano-{device}.txt").write_text(text.getvalue().lstrip(), encoding="utf-8")


class Tee(io.TextIOBase):
    """Writes to several streams."""

    def __init__(self, *streams):
        self.streams = streams

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
            stream.flush()
        return len(text)


if __name__ == "__main__":
    main()
