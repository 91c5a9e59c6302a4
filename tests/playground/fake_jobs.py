"""Jobs in memory with the interface of training.jobs: a prepared run is replayed, or a real trainer runs.

Where the real module is not to be had, `install` puts the spec of this one in its place.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from nbdiff_engine.errors import NBDiffError
from training.recipe.recipe import Recipe
from training.run.checkpointing import Checkpoint, CheckpointStore
from training.run.run_folder import read_lines


class JobError(NBDiffError):
    """What a job cannot do, in one sentence."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A recipe and what differs from it."""

    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    data: str | None = None
    max_steps: int | None = None
    kind: str = "adapt"

    @classmethod
    def of(cls, **fields: Any) -> JobSpec:
        spec = cls(**fields)
        spec.resolved()
        return spec

    def resolved(self) -> Recipe:
        overrides = [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]
        return Recipe.read(
            self.recipe, overrides, base=self.base, data__source=self.data, optimisation__max_steps=self.max_steps
        )


def install(jobs: FakeJobs, patch: Any = None) -> None:
    """Let `from training.jobs import ...` find these. jobs: what Jobs() gives; patch: a pytest.MonkeyPatch."""
    module = ModuleType("training.jobs")
    module.JobSpec, module.JobError, module.Jobs = JobSpec, JobError, lambda *args, **kwargs: jobs
    if patch is None:
        sys.modules["training.jobs"] = module
    else:
        patch.setitem(sys.modules, "training.jobs", module)


@dataclass(slots=True)
class Job:
    """A job as the page reads it."""

    id: str
    name: str
    spec: Any
    folder: Path
    state: str = "queued"
    reason: str = ""
    pid: int | None = None
    step: int = 0
    max_steps: int = 0
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    process: Any = None
    thread: Any = None
    queue_place: int | None = None

    @property
    def run(self) -> Path:
        return self.folder / "run"


class FakeJobs:
    """One job at a time. recording: a run folder to replay, its first max_steps, a line every `pace` seconds; None runs
    the trainer."""

    def __init__(
        self, home: Path | None = None, slots: int = 1, recording: Path | None = None, pace: float = 0.05
    ) -> None:
        self.home = Path(home)
        self.recording = recording
        self.pace = pace
        self._jobs: list[Job] = []
        self._wake = threading.Event()

    def submit(self, spec: Any, name: str = "") -> Job:
        identity = f"j{len(self._jobs) + 1:04d}"
        job = Job(identity, name or spec.recipe, spec, self.home / "jobs" / identity)
        job.folder.mkdir(parents=True)
        recipe = spec.resolved() if hasattr(spec, "resolved") else spec.read()
        job.max_steps = recipe.optimisation.max_steps
        self._jobs.append(job)
        self._begin_next()
        return job

    def list(self) -> list[Job]:
        self._look()
        return list(reversed(self._jobs))

    def get(self, identity: str) -> Job:
        self._look()
        for job in self._jobs:
            if job.id == identity:
                return job
        raise JobError(f"There is no job {identity!r}.")

    def stop(self, identity: str) -> Job:
        job = self.get(identity)
        if job.state == "queued":
            job.state, job.reason = "stopped", "taken out of the queue"
        elif job.state in ("starting", "running"):
            job.state = "stopping"
            if job.process is not None:
                job.process.terminate()
        else:
            raise JobError(f"The job {job.name} is {job.state}; there is nothing to stop.")
        return job

    def resume(self, identity: str) -> Job:
        job = self.get(identity)
        if job.state not in ("stopped", "failed", "lost"):
            raise JobError(f"The job {job.name} is {job.state}; there is nothing to resume.")
        job.state, job.reason = "queued", ""
        self._begin_next()
        return job

    def save_now(self, identity: str) -> Job:
        job = self.get(identity)
        if job.state != "running":
            raise JobError(f"The job {job.name} is {job.state}; only a running job can save.")
        job.reason = "asked to save"
        return job

    def delete(self, identity: str) -> None:
        job = self.get(identity)
        if job.state in ("starting", "running", "stopping"):
            raise JobError(f"The job {job.name} is {job.state}; stop it first.")
        shutil.rmtree(job.folder)
        self._jobs.remove(job)

    def move(self, identity: str, place: int) -> None:
        job = self.get(identity)
        waiting = [each for each in self._jobs if each.state == "queued"]
        others = [each for each in self._jobs if each.state != "queued"]
        waiting.remove(job)
        waiting.insert(place - 1, job)
        self._jobs = others + waiting

    def command(self, what: Any) -> list[str]:
        spec = self.get(what).spec if isinstance(what, str) else what
        command = ["python", "-m", "training", spec.kind, "--recipe", spec.recipe]
        for flag, value in (("--base", spec.base), ("--data", spec.data), ("--max-steps", spec.max_steps)):
            command += [flag, str(value)] if value is not None else []
        for key, value in spec.settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        return command

    def log_tail(self, identity: str, lines: int = 40) -> str:
        path = self.get(identity).folder / "log.txt"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def metrics(self, identity: str) -> list[dict]:
        return read_lines(self.get(identity).run / "metrics.jsonl")

    def evaluations(self, identity: str) -> list[dict]:
        return read_lines(self.get(identity).run / "evaluations.jsonl")

    def checkpoints(self, identity: str) -> list[Checkpoint]:
        return CheckpointStore(self.get(identity).run / "checkpoints", 10).all()

    def transitions(self, identity: str) -> list[dict]:
        return []

    def close(self) -> None:
        """End what still runs."""
        for job in self._jobs:
            job.state = "stopping" if job.state in ("starting", "running") else job.state
            if job.process is not None and job.process.poll() is None:
                job.process.kill()

    # -- running -----------------------------------------------------------------------------------------

    def _begin_next(self) -> None:
        if any(each.state in ("starting", "running", "stopping") for each in self._jobs):
            return
        job = next((each for each in self._jobs if each.state == "queued"), None)
        if job is None:
            return
        job.state, job.started = "running", time.time()
        if self.recording is not None:
            job.thread = threading.Thread(target=self._replay, args=(job,), daemon=True)
            job.thread.start()
            return
        command = [sys.executable, *self.command(job.spec)[1:], "--output", str(job.run)]
        if (job.run / "recipe.yaml").exists():
            command.append("--resume")
        with (job.folder / "log.txt").open("a") as log:
            job.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        job.pid = job.process.pid

    def _replay(self, job: Job) -> None:
        """Copy the recorded run line by line, from where the job stands."""
        job.run.mkdir(exist_ok=True)
        shutil.copy(self.recording / "recipe.yaml", job.run)
        rest = {name: read_lines(self.recording / name) for name in ("evaluations.jsonl", "probes.jsonl")}
        for line in read_lines(self.recording / "metrics.jsonl"):
            if not job.step < line["step"] <= job.max_steps:
                continue
            if job.state == "stopping":
                job.state, job.reason = "stopped", f"stopped after step {job.step}"
                self._begin_next()
                return
            time.sleep(self.pace)
            job.step = line["step"]
            for name, lines in {"metrics.jsonl": [line], **rest}.items():
                for each in lines:
                    if each["step"] == job.step:
                        with (job.run / name).open("a") as file:
                            file.write(json.dumps(each) + "\n")
            with (job.folder / "log.txt").open("a") as file:
                file.write(f"step {job.step}: loss {line['loss']:.3f}\n")
            saved = self.recording / "checkpoints" / f"step-{job.step:08d}"
            if saved.is_dir():
                shutil.copytree(saved, job.run / "checkpoints" / saved.name, dirs_exist_ok=True)
        shutil.copytree(self.recording / "final", job.run / "final", dirs_exist_ok=True)
        job.state, job.finished = "finished", time.time()
        self._begin_next()

    def _look(self) -> None:
        """See what processes have done."""
        waiting = [each for each in self._jobs if each.state == "queued"]
        for job in self._jobs:
            job.queue_place = waiting.index(job) + 1 if job in waiting else None
        for job in self._jobs:
            if job.process is None or job.state not in ("running", "stopping"):
                continue
            lines = read_lines(job.run / "metrics.jsonl")
            job.step = lines[-1]["step"] if lines else job.step
            if (code := job.process.poll()) is None:
                continue
            if job.state == "stopping":
                job.state, job.reason = "stopped", f"stopped after step {job.step}"
            elif code == 0:
                job.state = "finished"
            else:
                job.state, job.reason = "failed", f"the trainer ended with exit code {code}"
            job.finished = time.time()
            self._begin_next()
