"""A trainer that trains nothing. Its files, signals and exit codes are those of the real one; a step takes 0.05 s.

The recipe's `about` gives it more instructions. As long as the file HOME/hold exists, "held 5" waits after step 5, and
"held before signals" waits before the signal handlers are set. Each start is recorded in the job's folder. Locks detect
two processes of one job, or two jobs at once: then the file `double` is written.

HOME/hold                            if it contains a number: all jobs of this home wait after that many steps
NBDIFF_STAND_IN_RECORDING=folder     replay this recorded run without pauses, instead of computing losses
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
from training.run.manifest import MANIFEST, facts_of, is_complete

SECONDS = 0.05
LOGS = ("metrics.jsonl", "evaluations.jsonl", "probes.jsonl")

HOLD_LIMIT = 600  # seconds; a test that was killed cannot remove its file


def loss_after(loss: float) -> float:
    """The next loss, computed from the last one: a run that resumes at a wrong step has other losses."""
    return 3.9 * loss * (1 - loss)


class MadeUp:
    """A run with computed losses and a checkpoint every ten steps."""

    seconds = SECONDS

    def __init__(self, about: str):
        self.weight = 700_000 if "large" in about else 0  # bytes

    def after(self, state: dict) -> dict:
        return {"step": state["step"] + 1, "loss": loss_after(state["loss"])}

    def lines(self, state: dict) -> dict[str, dict]:
        return {"metrics.jsonl": state}

    def saves(self, step: int) -> bool:
        return step % 10 == 0

    def read(self, checkpoint: Path) -> dict:
        return json.loads((checkpoint / "state.json").read_text())

    def save(self, folder: Path, state: dict) -> None:
        publish(folder, state, self.weight)

    def finish(self, folder: Path, state: dict) -> None:
        publish(folder, state)


class Recorded:
    """A recorded run, read from its folder. A stop or a `save_now` saves the newest recorded checkpoint."""

    seconds = 0.0

    def __init__(self, folder: Path):
        self.folder = folder
        self.logs = {name: {line["step"]: line for line in read_lines(folder / name)} for name in LOGS}

    def after(self, state: dict) -> dict:
        return {"step": state["step"] + 1}

    def lines(self, state: dict) -> dict[str, dict]:
        print(f"step {state['step']}", flush=True)
        return {name: lines[state["step"]] for name, lines in self.logs.items() if state["step"] in lines}

    def saves(self, step: int) -> bool:
        return (self.folder / "checkpoints" / f"step-{step:08d}").is_dir()

    def read(self, checkpoint: Path) -> dict:
        return {"step": int(checkpoint.name.removeprefix("step-"))}

    def save(self, folder: Path, state: dict) -> None:
        first, *later = sorted((self.folder / "checkpoints").iterdir())
        copy(max([first, *(each for each in later if each.name <= folder.name)]), folder)

    def finish(self, folder: Path, state: dict) -> None:
        copy(self.folder / "final", folder)


def publish(folder: Path, state: dict, weight: int = 0) -> None:
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        (unfinished / "weights").write_bytes(os.urandom(weight))
    except OSError:
        shutil.rmtree(unfinished)
        raise
    (unfinished / "state.json").write_text(json.dumps(state))
    (unfinished / MANIFEST).write_text(json.dumps({"files": {"state.json": facts_of(unfinished / "state.json")}}))
    if not folder.exists():
        unfinished.rename(folder)


def copy(source: Path, folder: Path) -> None:
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished)
    if not folder.exists():
        unfinished.rename(folder)


def read_lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n") if line.endswith("}")]


def lock(path: Path) -> None:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        (path.parent / "double").write_text("two at once")
    globals().setdefault("locks", []).append(file)  # closing the file would release the lock


def wait(hold: Path, requests: dict[str, bool]) -> None:
    until = time.monotonic() + HOLD_LIMIT
    while hold.exists() and not requests and time.monotonic() < until:
        time.sleep(0.01)


def is_held(hold: Path, step: int, held: str | None) -> bool:
    """Whether to wait after this step. held: the step in the recipe's `about`, if any."""
    try:
        limit = hold.read_text() or held
    except FileNotFoundError:
        return False
    return limit is not None and step >= int(limit)


class Ended(Exception):
    """A run cannot go on. The real trainer's exception cannot be used here: importing it imports torch."""

    def __init__(self, outcome: str, kind: str | None = None, step: int | None = None, message: str = ""):
        self.ending = Ending(Outcome(outcome), kind and FailureKind(kind), step, message)


def fail(about: str) -> None:
    """Fail if the recipe's `about` is `failed KIND: message`, `crashed KIND: message` or `exitCODE words:last line`."""
    first, _, rest = about.partition(":")
    if first.startswith(("failed ", "crashed ")):
        raise Ended(*first.split(), message=rest.strip())
    if first.startswith("exit"):
        print(rest, file=sys.stderr, flush=True)
        os._exit(int(first.split()[0].removeprefix("exit")))  # no end.json, as when the interpreter crashes


def train(options: argparse.Namespace) -> None:
    recipe = yaml.safe_load(options.recipe.read_text())
    about, steps = recipe["about"], recipe["optimisation"]["max_steps"]
    recording = os.environ.get("NBDIFF_STAND_IN_RECORDING")
    work = Recorded(Path(recording)) if recording else MadeUp(about)
    run, job = options.output, options.output.parent
    with (job / "starts.txt").open("a") as file:
        file.write(f"{os.getpid()} {' '.join(sys.argv)}\n")
    lock(job / "job.lock")
    if "slots=2" not in about:
        lock(job.parent / "slot.lock")
    if options.resume and not (run / "recipe.yaml").exists():
        raise Ended("failed", "other", message="There is no run to resume")
    if not options.resume and run.exists() and any(path.name != END for path in run.iterdir()):
        raise Ended("failed", "other", message="The output is not an empty folder")
    fail(about)
    if "child" in about:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(job)])
    requests = {}
    hold = job.parents[1] / "hold"
    held = re.search(r"held (\d+)", about)
    if "held before signals" in about:
        wait(hold, requests)
    signal.signal(signal.SIGTERM, lambda *_: None if "ignores stop" in about else requests.update(stop=True))
    signal.signal(signal.SIGUSR1, lambda *_: requests.update(save=True))
    run.mkdir(exist_ok=True)
    (run / "recipe.yaml").write_text(options.recipe.read_text())
    checkpoints = [each for each in sorted(run.glob("checkpoints/step-" + "[0-9]" * 8)) if is_complete(each)]
    state = work.read(checkpoints[-1]) if checkpoints else {"step": 0, "loss": 0.3}
    for log in (run / name for name in LOGS):
        if log.exists():
            kept = [line for line in read_lines(log) if line["step"] <= state["step"]]
            log.with_suffix(".part").write_text("".join(json.dumps(line) + "\n" for line in kept))
            os.replace(log.with_suffix(".part"), log)
    while state["step"] < steps:
        time.sleep(work.seconds)
        until = time.monotonic() + HOLD_LIMIT
        while is_held(hold, state["step"], held and held[1]) and not requests and time.monotonic() < until:
            time.sleep(0.01)
        state = work.after(state)
        for name, line in work.lines(state).items():
            with (run / name).open("a") as file:
                file.write(json.dumps(line) + "\n")
        if work.saves(state["step"]) or requests:
            work.save(run / "checkpoints" / f"step-{state['step']:08d}", state)
            requests.pop("save", None)
        if requests:
            raise Ended("stopped", step=state["step"])
    if "no final" not in about:
        work.finish(run / "final", state)
    if "damaged final" in about:
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
