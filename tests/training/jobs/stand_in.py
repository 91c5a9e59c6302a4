"""A trainer that trains nothing: the files, signals, exit codes and ends of the real one, a twentieth second a step.

What else it should do is in the recipe's `about`: with "held 5" it waits after step 5, with "held unheard" before it
listens to signals, while the home holds a file `hold`. It notes each of its starts beside the run's folder, and holds
locks while it lives: `double` appears there if a job runs twice at once, or more jobs than one.
"""

import argparse
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from training.failure_kind import FailureKind
from training.run.end_file import END, Ending, Outcome, ending_written
from training.run.manifest import MANIFEST, facts_of, is_whole

SECONDS = 0.05


def loss_after(loss: float) -> float:
    """The next loss: each follows from the one before, so that a run that has lost its place shows it."""
    return 3.9 * loss * (1 - loss)


def publish(folder: Path, state: dict, weight: int = 0) -> None:
    beside = folder.with_name(folder.name + ".unfinished")
    beside.mkdir(parents=True, exist_ok=True)
    try:
        (beside / "weights").write_bytes(os.urandom(weight))
    except OSError:
        shutil.rmtree(beside)
        raise
    (beside / "state.json").write_text(json.dumps(state))
    (beside / MANIFEST).write_text(json.dumps({"files": {"state.json": facts_of(beside / "state.json")}}))
    if not folder.exists():
        beside.rename(folder)


def alone(path: Path) -> None:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        (path.parent / "double").write_text("two at once")
    globals().setdefault("held", []).append(file)


def wait(hold: Path, asked: dict[str, bool]) -> None:
    while hold.exists() and not asked:
        time.sleep(0.01)


class Ended(Exception):
    """What the real trainer raises where a run cannot go on; it would take torch to import that."""

    def __init__(self, outcome: str, kind: str | None = None, step: int | None = None, message: str = ""):
        self.ending = Ending(Outcome(outcome), kind and FailureKind(kind), step, message)


def fail(about: str) -> None:
    """End as the recipe's `about` says: `failed KIND: message`, `crashed KIND: message` or `exitCODE words:last`."""
    first, _, rest = about.partition(":")
    if first.startswith(("failed ", "crashed ")):
        raise Ended(*first.split(), message=rest.strip())
    if first.startswith("exit"):
        print(rest, file=sys.stderr, flush=True)
        os._exit(int(first.split()[0].removeprefix("exit")))  # as an interpreter that crashes: no end.json


def train(options: argparse.Namespace) -> None:
    recipe = yaml.safe_load(options.recipe.read_text())
    about, steps = recipe["about"], recipe["optimisation"]["max_steps"]
    run, job = options.output, options.output.parent
    with (job / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()} {' '.join(sys.argv)}\n")
    alone(job / "job.lock")
    if "slots=2" not in about:
        alone(job.parent / "slot.lock")
    if options.resume and not (run / "recipe.yaml").exists():
        raise Ended("failed", "other", message="There is no run to resume")
    if not options.resume and run.exists() and any(path.name != END for path in run.iterdir()):
        raise Ended("failed", "other", message="The output is not an empty folder")
    fail(about)
    if "child" in about:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(job)])
    asked = {}
    hold = job.parents[1] / "hold"
    held = re.search(r"held (\d+)", about)
    if "held unheard" in about:
        wait(hold, asked)
    signal.signal(signal.SIGTERM, lambda *_: None if "deaf" in about else asked.update(stop=True))
    signal.signal(signal.SIGUSR1, lambda *_: asked.update(save=True))
    run.mkdir(exist_ok=True)
    (run / "recipe.yaml").write_text(options.recipe.read_text())
    whole = [each for each in sorted(run.glob("checkpoints/step-" + "[0-9]" * 8)) if is_whole(each)]
    state = {"step": 0, "loss": 0.3}
    if whole:
        state = json.loads((whole[-1] / "state.json").read_text())
    metrics = run / "metrics.jsonl"
    if metrics.exists():
        lines = [line for line in metrics.read_text().split("\n") if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= state["step"]]
        (run / "metrics.jsonl.part").write_text("".join(line + "\n" for line in kept))
        os.replace(run / "metrics.jsonl.part", metrics)
    while state["step"] < steps:
        if held and state["step"] >= int(held[1]):
            wait(hold, asked)
        time.sleep(SECONDS)
        state = {"step": state["step"] + 1, "loss": loss_after(state["loss"])}
        with metrics.open("a") as file:
            file.write(json.dumps(state) + "\n")
        if state["step"] % 10 == 0 or asked:
            publish(run / "checkpoints" / f"step-{state['step']:08d}", state, 700_000 if "large" in about else 0)
            asked.pop("save", None)
        if asked:
            raise Ended("stopped", step=state["step"])
    if "no final" not in about:
        publish(run / "final", state)
    if "spoilt" in about:
        (run / "final" / "state.json").write_text("{}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    try:
        with ending_written(options.output, options.resume, ending_of):
            train(options)
    except Ended as ended:
        print(f"error: {ended.ending.message}", file=sys.stderr)
        return {"stopped": 143, "failed": 2, "crashed": 1}[ended.ending.outcome]
    return 0


def ending_of(error: BaseException) -> Ending:
    if isinstance(error, Ended):
        return error.ending
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return Ending(Outcome.CRASHED, FailureKind.DISK_FULL if full else FailureKind.OTHER)


if __name__ == "__main__":
    sys.exit(main())
