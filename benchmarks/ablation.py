"""The paper's ablations at a small scale: how each part of the recipe changes accuracy and tokens per forward.

    python benchmarks/ablation.py
    python benchmarks/ablation.py --arms full block-causal --seeds 0

A 0.9M-parameter AR model is trained once on the project's corpus (ten minutes on two cores). Every arm then adapts it
with every seed (about four minutes each; `--workers` arms run in parallel, one thread each) and answers the 400
held-out problems. If the command is stopped, the same command resumes it; finished arms do not run again. The arms are
those of NBDiff's Tables 1 and 2 (arXiv 2512.06776). The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import plotly.graph_objects as go
import torch
from tqdm import tqdm

import nbdiff_engine as nb
from nbdiff_engine.evaluation.machine_facts import machine_facts
from nbdiff_engine.tasks import DOMAINS, check, held_out
from nbdiff_engine.trace.metrics import pooled
from training.recipe.recipe import Recipe
from training.run.launch import start

BASE = ROOT / "benchmarks" / "recipes" / "ablation-base.yaml"
ADAPT = ROOT / "benchmarks" / "recipes" / "ablation-adapt.yaml"
BLOCK_SIZE = 32
THRESHOLD = 0.9
ROWS = 20  # prompts in a batch
MAX_NEW_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant of the recipe. settings: its changes to the full recipe."""

    name: str
    about: str
    settings: tuple[str, ...] = ()


FIXED, NO_AR = ("blocks.kind=fixed",), ("objective.ar_weight=0",)
ARMS = (
    Arm("full", "context-causal, growth 1 to 32, lambda 0.5: the paper's recipe"),
    Arm("no-growth", "blocks of 32 from the first step, lambda 0.5", FIXED),
    Arm("no-ar-loss", "growth, lambda 0", NO_AR),
    Arm("plain", "blocks of 32 from the first step, lambda 0: plain fine-tuning", FIXED + NO_AR),
    Arm(
        "annealed-mask",
        "plain, but attention to later tokens of a block is opened gradually during 62.5 % of the run",
        (*FIXED, *NO_AR, "objective.mask_annealing=0.625"),
    ),
    Arm(
        "block-causal",
        "full, but tokens of a committed block attend to the whole block",
        ("objective.context=block_causal",),
    ),
)


# -- one arm with one seed, in its own process -----------------------------------------------------------


def run_base(folder: Path) -> None:
    start(Recipe.read(str(BASE)), folder, resume=(folder / "recipe.yaml").exists())


def run_arm(arm: Arm, seed: int, base: Path, folder: Path) -> None:
    """Adapt, evaluate, then write `result.json`: the file exists only for a finished arm."""
    recipe = Recipe.read(str(ADAPT), list(arm.settings), base=str(base), seed=seed, threads=1)
    run = folder / "run"
    final = run / "final"
    if not (final / "config.json").exists():
        final = start(recipe, run, resume=(run / "recipe.yaml").exists())
    seconds = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    torch.set_num_threads(1)
    result = {"arm": arm.name, "seed": seed, "training_seconds": seconds, **evaluate_checkpoint(final)}
    partial = folder / "result.json.part"
    partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
    partial.replace(folder / "result.json")


def evaluate_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Accuracy, by domain and overall, and tokens per forward of block diffusion, and of AR if it can decode by AR."""
    model = nb.load(str(checkpoint), dtype="float32")
    found = {
        "block_diffusion": solve_held_out(model, strategy="block_diffusion", block_size=BLOCK_SIZE, threshold=THRESHOLD)
    }
    if model.spec is None or model.spec.commits_as_ar:
        found["ar"] = solve_held_out(model, strategy="ar")
    return found


def solve_held_out(model: nb.BlockModel, **settings) -> dict[str, Any]:
    """Decode the held-out problems with one setting. Rates are quotients of sums, not means of rates."""
    right = dict.fromkeys(DOMAINS, 0)
    count = dict(right)
    metrics = []
    problems = sorted(held_out(), key=lambda problem: len(problem.prompt))  # prompts of a batch have similar lengths
    for first in tqdm(range(0, len(problems), ROWS), desc=f"{model.name}: {settings['strategy']}"):
        part = problems[first : first + ROWS]
        prompts = [problem.prompt for problem in part]
        outputs = nb.generate(model, prompts, max_new_tokens=MAX_NEW_TOKENS, trace=False, **settings)
        for problem, output in zip(part, outputs, strict=True):
            right[problem.domain] += bool(check(problem, output.text).correct)
            count[problem.domain] += 1
            metrics.append(output.metrics)
    return {
        "accuracy": 100 * sum(right.values()) / len(problems),
        "domains": {domain: 100 * right[domain] / count[domain] for domain in DOMAINS},
        "tokens_per_forward": pooled(metrics).tokens_per_forward,
    }


# -- all arms and seeds ------------------------------------------------------------------------------------


def run_subprocess(*arguments: str, log: Path) -> None:
    """Run this script in a process for one arm or the base, with its output in `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, str(Path(__file__).resolve()), *arguments]
    with log.open("a", encoding="utf-8") as file:
        done = subprocess.run(program, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    if done.returncode:
        raise SystemExit(f"The process for {log.parent} failed with exit code {done.returncode}; see {log}.")


def run_all(arms: Sequence[Arm], seeds: Sequence[int], folder: Path, workers: int) -> list[dict[str, Any]]:
    """Run the arms that have no result yet. Returns all results, in the order of seeds and arms."""
    base = folder / "base"
    if not (base / "final" / "config.json").exists():
        print(f"Training the AR base; its progress is in {folder / 'base.log'}.", file=sys.stderr)
        run_subprocess("--work", "base", "--output", str(folder), log=folder / "base.log")
    folders = {(arm.name, seed): folder / f"{arm.name}-{seed}" for seed in seeds for arm in arms}
    todo = [key for key, arm_folder in folders.items() if not (arm_folder / "result.json").exists()]

    def work(key: tuple[str, int]) -> None:
        run_subprocess("--work", key[0], "--seeds", str(key[1]), "--output", str(folder), log=folders[key] / "log.txt")
        bar.update()

    with tqdm(total=len(folders), initial=len(folders) - len(todo), desc="arms", unit="arm") as bar:
        pool = ThreadPoolExecutor(workers)
        try:
            list(pool.map(work, todo))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # after a failure no further arm starts
    return [json.loads((each / "result.json").read_text(encoding="utf-8")) for each in folders.values()]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """The results of an arm: means over its seeds and, with more than one seed, sample standard deviations."""

    arm: str
    seeds: int
    accuracy: float  # percent, block diffusion
    accuracy_sd: float | None
    domains: dict[str, float]
    tokens_per_forward: float
    tokens_per_forward_sd: float | None
    ar_accuracy: float | None  # percent, the same weights decoded by AR; None if they cannot decode by AR
    training_minutes: float  # of the slowest seed

    @classmethod
    def of(cls, arm: str, results: Sequence[dict[str, Any]]) -> "ArmSummary":
        of_arm = [each for each in results if each["arm"] == arm]
        diffusion = [each["block_diffusion"] for each in of_arm]
        accuracies = [each["accuracy"] for each in diffusion]
        rates = [each["tokens_per_forward"] for each in diffusion]
        return cls(
            arm=arm,
            seeds=len(of_arm),
            accuracy=statistics.mean(accuracies),
            accuracy_sd=spread(accuracies),
            domains={d: statistics.mean(each["domains"][d] for each in diffusion) for d in DOMAINS},
            tokens_per_forward=statistics.mean(rates),
            tokens_per_forward_sd=spread(rates),
            ar_accuracy=statistics.mean(each["ar"]["accuracy"] for each in of_arm) if "ar" in of_arm[0] else None,
            training_minutes=max(each["training_seconds"] for each in of_arm) / 60,
        )


def spread(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.stdev(values) if len(values) > 1 else None


def table(base: dict[str, Any], summaries: Sequence[ArmSummary]) -> str:
    head = f"{'arm':14} {'accuracy':>13} {'TPF':>13} {'AR':>6}  " + " ".join(f"{d:>9}" for d in DOMAINS) + "  minutes"
    ar = base["ar"]
    by_domain = " ".join(f"{ar['domains'][d]:9.1f}" for d in DOMAINS)
    lines = [head, f"{'the AR base':14} {'':13} {'':13} {ar['accuracy']:6.1f}  {by_domain}"]
    for each in summaries:
        by_domain = " ".join(f"{each.domains[d]:9.1f}" for d in DOMAINS)
        ar_accuracy = "-" if each.ar_accuracy is None else f"{each.ar_accuracy:.1f}"
        lines.append(
            f"{each.arm:14} {with_spread(each.accuracy, each.accuracy_sd, 1):>13} "
            f"{with_spread(each.tokens_per_forward, each.tokens_per_forward_sd, 2):>13} {ar_accuracy:>6}  {by_domain}  "
            f"{each.training_minutes:7.1f}"
        )
    return "\n".join(lines)


def with_spread(value: float, sd: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if sd is None else f" ±{sd:.{digits}f}")


def figure(results: Sequence[dict[str, Any]], summaries: Sequence[ArmSummary], base: dict[str, Any]) -> go.Figure:
    """Accuracy against tokens per forward: a small point for every seed, a large one for every arm's mean."""
    drawing = go.Figure()
    palette = ("#1b7f5c", "#2f6fb0", "#8a5fb8", "#c7762b", "#b23a48", "#6b7280")
    for colour, each in zip(palette, summaries):
        own = [result["block_diffusion"] for result in results if result["arm"] == each.arm]
        drawing.add_scatter(
            x=[one["tokens_per_forward"] for one in own],
            y=[one["accuracy"] for one in own],
            mode="markers",
            marker={"color": colour, "size": 7, "opacity": 0.45},
            showlegend=False,
            hovertemplate=f"{each.arm}: %{{y:.1f}} % at %{{x:.2f}}<extra></extra>",
        )
        drawing.add_scatter(
            x=[each.tokens_per_forward],
            y=[each.accuracy],
            name=each.arm,
            mode="markers",
            marker={"color": colour, "size": 15, "line": {"color": "white", "width": 1.5}},
            error_y={"array": [each.accuracy_sd or 0]},
            error_x={"array": [each.tokens_per_forward_sd or 0]},
            hovertemplate=f"{each.arm}, mean of {each.seeds}: %{{y:.1f}} % at %{{x:.2f}}<extra></extra>",
        )
    drawing.add_hline(y=base["ar"]["accuracy"], line_dash="dot", annotation_text="the AR base, 1 token per forward")
    drawing.update_layout(
        template="plotly_white",
        title=f"Block diffusion, blocks of {BLOCK_SIZE}, threshold {THRESHOLD}: mean and standard deviation over seeds",
        xaxis_title="tokens per forward",
        yaxis_title="accuracy on 400 held-out problems, %",
        width=900,
        height=560,
    )
    return drawing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", choices=names, default=names, help="arms to run; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "ablation", help="folder for runs and results")
    parser.add_argument("--workers", type=int, default=2, help="arms that are trained in parallel, one thread each")
    parser.add_argument("--work", choices=["base", *names], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.workers < 1 or min(options.seeds) < 0:
        parser.error("--workers must be at least 1, and every seed at least 0")
    folder = options.output.resolve()
    base = folder / "base"
    if options.work == "base":
        run_base(base)
        return
    arms = {arm.name: arm for arm in ARMS}
    if options.work:
        seed = options.seeds[0]
        run_arm(arms[options.work], seed, base / "final", folder / f"{options.work}-{seed}")
        return
    started = time.monotonic()
    try:
        results = run_all([arms[name] for name in options.arms], options.seeds, folder, options.workers)
    except KeyboardInterrupt:
        raise SystemExit("\nStopped. The same command resumes the ablation.") from None
    base_result = base_accuracy(base / "final", folder / "base.json")
    summaries = [ArmSummary.of(name, results) for name in options.arms]
    machine = machine_facts()
    print(
        f"Block diffusion with blocks of {BLOCK_SIZE}, threshold {THRESHOLD}, on 400 held-out problems; "
        f"{len(options.seeds)} seed(s), mean ± standard deviation"
    )
    print(f"{machine.cpu}, {machine.cores} cores, torch {machine.torch}, {machine.date}\n")
    print(table(base_result, summaries) + "\n")
    for name in options.arms:
        print(f"{name:14} {arms[name].about}")
    page = folder / "ablation.html"
    figure(results, summaries, base_result).write_html(page, include_plotlyjs=True)
    print(f"\nThe figure is in {page.relative_to(ROOT) if page.is_relative_to(ROOT) else page}.")
    report = {"base": base_result, "arms": [asdict(each) for each in summaries], "results": results}
    print(json.dumps({**report, "seconds": time.monotonic() - started, "machine": machine.to_json()}))


def base_accuracy(base: Path, file: Path) -> dict[str, Any]:
    """The accuracy of the AR base, measured once and then read from `file`."""
    if not file.exists():
        file.write_text(
            json.dumps({"ar": solve_held_out(nb.load(str(base), dtype="float32"), strategy="ar")}), encoding="utf-8"
        )
    return json.loads(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
