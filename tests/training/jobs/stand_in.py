"""A trainer that trains nothing: the files, signals, exit codes and words of the real one, a twentieth second a step.

What else it should do is in the recipe's `about`: with "held 5" it waits after step 5, with "held unheard" before it
listens to signals, while the home holds a file `hold`. It notes each of its starts beside the run's folder, and holds
locks while it lives: `double` appears there if a job runs twice at once, or more jobs than one.
"""

import argparse
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


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    recipe = yaml.safe_load(options.recipe.read_text())
    about, steps = recipe["about"], recipe["optimisation"]["max_steps"]
    run, job = options.output, options.output.parent
    with (job / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()} {' '.join(sys.argv)}\n")
    alone(job / "job.lock")
    if "slots=2" not in about:
        alone(job.parent / "slot.lock")
    if options.resume and not (run / "recipe.yaml").exists():
        print("error: There is no run to resume", file=sys.stderr)
        return 2
    if not options.resume and run.exists() and any(run.iterdir()):
        print("error: The output is not an empty folder", file=sys.stderr)
        return 2
    if "words:" in about:
        print(about.split("words:")[1], file=sys.stderr)
        return int(about.split("words:")[0].split("exit")[1])
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
            print(f"error: stopped after step {state['step']}, which is saved; --resume goes on", file=sys.stderr)
            return 143
    if "no final" not in about:
        publish(run / "final", state)
    if "spoilt" in about:
        (run / "final" / "state.json").write_text("{}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
