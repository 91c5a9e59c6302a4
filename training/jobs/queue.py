"""Jobs: submit, watch, stop, resume, delete. The page and the command line use this class."""

from __future__ import annotations  # Jobs.list would hide the builtin in the annotations after it

import contextlib
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from nbdiff_engine.errors import brief
from nbdiff_engine.ray_cluster import require_ray
from training.jobs import places, states
from training.jobs.cluster_file import RayCluster
from training.jobs.job_errors import JobError
from training.jobs.job_spec import JobSpec
from training.jobs.notes import write_note
from training.jobs.processes import threads_each
from training.jobs.progress import json_lines, last_json_lines, last_step, log_lines, steps_of
from training.jobs.store import JobRow, Ledger, Store, StoreError, Transition
from training.jobs.supervisor import GRACE, Supervisor, command
from training.run.checkpointing import Checkpoint, CheckpointStore
from training.run.log_lines import HeldOutEvaluation, Probe, StepFigures

_LONGEST_NAME = 200  # characters

Line = TypeVar("Line")


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A snapshot of a job. Times are ISO, in UTC."""

    id: str
    name: str
    state: str  # queued, starting, running, stopping, stopped, finished, failed or lost
    reason: str  # of the latest transition; may be empty
    pid: int | None  # of the trainer, while it runs; on a Ray cluster: of the process that follows it
    step: int  # last step in metrics.jsonl; 0 before the first
    max_steps: int | None
    folder: Path
    run: Path  # the run's folder, inside `folder`
    spec: JobSpec
    created: str
    started: str | None  # the latest start
    finished: str | None  # the latest end
    queue_place: int | None  # 1 starts next; None if it is not queued
    backend: str = "local"  # or ray

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON values."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return found | {"folder": str(self.folder), "run": str(self.run), "spec": self.spec.model_dump(mode="json")}


class Jobs:
    """The jobs of one home folder. Several instances, also in several processes, can use one home at the same time."""

    def __init__(self, home: Path | str | None = None, slots: int = 1, grace: float = GRACE):
        """home: None takes `places.home()`. slots: jobs that run at once. grace: seconds from SIGTERM to SIGKILL.

        Raises JobError for a number out of range, and on a system without process groups. Does not write to disk.
        """
        if not hasattr(os, "fork"):
            raise JobError(
                "The queue of jobs needs a POSIX system (Linux, macOS, or WSL on Windows), whose process groups let a "
                "job be stopped whole; train here with 'nbdiff-train adapt' instead."
            )
        if not 1 <= slots <= 64:
            raise JobError(f"slots is {brief(slots)}; it must be from 1 to 64.")
        if not 0 <= grace <= 86_400:
            raise JobError(f"grace is {brief(grace)}; it must be from 0 to 86,400 seconds.")
        self.home = places.home() if home is None else Path(home).expanduser().absolute()
        self._store = Store(self.home)
        self._supervisor = Supervisor(self._store, slots, grace)

    # -- reading ------------------------------------------------------------------------------------------

    def list(self) -> list[TrainingJob]:
        """All jobs, newest first."""
        if not self._store.exists:
            return []
        with self._open() as ledger:
            rows = ledger.rows()
        queue = _places(rows)
        return [self._job(row, queue) for row in rows]

    def get(self, id: str) -> TrainingJob:
        """One job. Raises JobError if it does not exist."""
        with self._at(id) as (ledger, row):
            queue = _places(ledger.rows())
        return self._job(row, queue)

    def transitions(self, id: str) -> list[Transition]:
        """All transitions, oldest first."""
        with self._at(id) as (ledger, row):
            return ledger.transitions(row.id)

    def log_tail(self, id: str, lines: int = 40) -> str:
        """The last lines of the trainer's output."""
        return "\n".join(log_lines(places.log_of(self._folder(id)), max(lines, 0)))

    def metrics(self, id: str) -> list[StepFigures]:
        """The lines of the run's metrics.jsonl. An incomplete line is skipped, as in the other logs."""
        return self._log(id, "metrics.jsonl", StepFigures.read)

    def newest_metrics(self, id: str) -> list[StepFigures]:
        """The newest lines of the run's metrics.jsonl, without reading the rest of a long log."""
        lines = last_json_lines(places.run_of(self._folder(id)) / "metrics.jsonl")
        return [found for line in lines if (found := StepFigures.read(line)) is not None]

    def evaluations(self, id: str) -> list[HeldOutEvaluation]:
        """The lines of the run's evaluations.jsonl."""
        return self._log(id, "evaluations.jsonl", HeldOutEvaluation.read)

    def probes(self, id: str) -> list[Probe]:
        """The lines of the run's probes.jsonl."""
        return self._log(id, "probes.jsonl", Probe.read)

    def checkpoints(self, id: str) -> list[Checkpoint]:
        """The run's checkpoints, oldest first."""
        return CheckpointStore(places.run_of(self._folder(id)) / "checkpoints", keep=1).all()

    def command(self, of: str | JobSpec) -> list[str]:
        """The argv that would start a job's trainer now; for a spec, an argv of the same run."""
        if isinstance(of, JobSpec):
            return [sys.executable, "-m", "training", *of.command()]
        with self._at(of) as (_, row):
            return command(row.kind, self._folder(row.id))

    # -- changing -----------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, name: str = "", cluster: RayCluster | None = None) -> TrainingJob:
        """Queue a job and create its folder. It starts at once if a slot is free.

        cluster: where it runs; None: on this machine.
        Raises JobError if the spec is not valid or the home cannot be written.
        """
        if cluster is not None:
            require_ray()
            cluster.check()
        recipe = spec.with_absolute_paths(None if cluster else threads_each(self._supervisor.slots))
        label = _one_line(name) or (spec.label if spec.label != "custom" else "custom recipe")
        with self._open(reconcile=False) as ledger:
            job = _new_id(self._store)
            folder = self._folder(job)
            folder.mkdir()
            try:
                places.recipe_of(folder).write_text(recipe.to_yaml(), encoding="utf-8")
                if cluster is not None:
                    cluster.write(folder)
                ledger.add(
                    job,
                    name=label,
                    spec=spec.model_dump_json(),
                    kind=recipe.kind,
                    # The steps of epochs are counted when the run starts.
                    max_steps=recipe.optimisation.max_steps if recipe.optimisation.epochs is None else None,
                    threads=recipe.threads,
                )
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return self.get(job)

    def stop(self, id: str) -> TrainingJob:
        """Make a running job save and end; it is killed after the grace period. A queued job is cancelled.

        Does nothing if the job is already stopping or has ended.
        """
        with self._at(id) as (ledger, row):
            self._supervisor.stop(ledger, row)
        return self.get(id)

    def resume(self, id: str) -> TrainingJob:
        """Queue a stopped, failed or lost job again; it continues from its newest complete checkpoint.

        Does nothing if the job is queued or running. Raises JobError if it is finished or still stopping.
        """
        with self._at(id) as (ledger, row):
            if row.state in (states.FINISHED, states.STOPPING):
                raise JobError(f"The job {row.id} is {row.state}; only a stopped, failed or lost job can be resumed.")
            if row.state in states.RESUMABLE:
                if not places.recipe_of(self._folder(row.id)).is_file():
                    raise JobError(f"The job {row.id} cannot be resumed: its recipe.yaml is missing.")
                ledger.move_to(row, states.QUEUED, "resume requested", attempts=0)
        return self.get(id)

    def save_now(self, id: str) -> None:
        """Make the trainer save after the current step and continue. Raises JobError if it is not running."""
        with self._at(id) as (_, row):
            if places.cluster_of(self._folder(row.id)).exists():
                raise JobError(f"The job {row.id} runs on a Ray cluster, where only a stop saves; stop and resume it.")
            if row.state != states.RUNNING or not row.trainer.send(signal.SIGUSR1):
                raise JobError(f"The job {row.id} is {row.state}; only a running job can save.")

    def delete(self, id: str) -> None:
        """Delete a job and its folder. Raises JobError if it is starting, running or stopping."""
        with self._at(id) as (ledger, row):
            if row.state in states.LIVE:
                raise JobError(f"The job {row.id} is {row.state}; stop it before you delete it.")
            folder = self._folder(row.id)
            renamed = folder.with_name(f".deleted-{row.id}")
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder, renamed)
            ledger.delete(row.id)
        if renamed.is_symlink():  # not created by this class: its target is not part of the job
            renamed.unlink()
        for each in self._store.places.jobs.glob(".deleted-*"):  # also those that a killed process left
            shutil.rmtree(each, ignore_errors=True)

    def set_note(self, id: str, text: str) -> None:
        """Keep a person's note with a job; an empty one deletes it. Raises JobError."""
        with self._at(id) as (_, row):
            write_note(self._folder(row.id), text)

    def move(self, id: str, place: int) -> TrainingJob:
        """Move a queued job to a place in the queue; 1 starts next. Raises JobError if it is not queued."""
        with self._at(id) as (ledger, row):
            if row.state != states.QUEUED:
                raise JobError(f"The job {row.id} is {row.state}; only queued jobs have a place.")
            order = [each.id for each in ledger.queue() if each.id != row.id]
            order.insert(max(place, 1) - 1, row.id)
            for number, each in enumerate(order, start=1):
                ledger.change(each, place=number)
        return self.get(id)

    # -- the store ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _open(self, reconcile: bool = True) -> Iterator[Ledger]:
        try:
            with self._store.open() as ledger:
                if reconcile:
                    self._supervisor.reconcile(ledger)
                yield ledger
        except StoreError as error:
            raise JobError(str(error)) from error

    @contextlib.contextmanager
    def _at(self, id: str) -> Iterator[tuple[Ledger, JobRow]]:
        if not places.is_id(id) or not self._store.exists:
            raise JobError(f"There is no job {brief(id)}.")
        with self._open() as ledger:
            row = ledger.get(id)
            if row is None:
                raise JobError(f"There is no job {brief(id)}.")
            yield ledger, row

    def _folder(self, id: str) -> Path:
        try:
            return self._store.places.folder(id)
        except ValueError as error:
            raise JobError(f"There is no job {brief(id)}.") from error

    def _log(self, id: str, name: str, read: Callable[[Mapping[str, Any]], Line | None]) -> list[Line]:
        lines = json_lines(places.run_of(self._folder(id)) / name)
        return [found for line in lines if (found := read(line)) is not None]

    def _job(self, row: JobRow, queue: dict[str, int]) -> TrainingJob:
        folder = self._folder(row.id)
        try:
            spec = JobSpec.model_validate_json(row.spec)
        except (ValueError, RecursionError):
            spec = JobSpec.model_construct(recipe="")  # the row is damaged
        return TrainingJob(
            id=row.id,
            name=row.name,
            state=row.state,
            reason=row.reason,
            pid=None if row.trainer is None else row.trainer.pid,
            step=last_step(places.run_of(folder) / "metrics.jsonl"),
            max_steps=row.max_steps or steps_of(places.run_of(folder)),
            folder=folder,
            run=places.run_of(folder),
            spec=spec,
            created=row.created,
            started=row.started,
            finished=row.finished,
            queue_place=queue.get(row.id),
            backend="ray" if places.cluster_of(folder).exists() else "local",
        )


def _places(rows: list[JobRow]) -> dict[str, int]:
    waiting = sorted((row for row in rows if row.state == states.QUEUED), key=lambda row: (row.place or 0, row.number))
    return {row.id: number for number, row in enumerate(waiting, start=1)}


def _new_id(store: Store) -> str:
    while True:
        job = secrets.token_hex(4)
        if not store.places.folder(job).exists():
            return job


def _one_line(name: str) -> str:
    """A job's name on one line; never part of a path or command. Raises JobError if it is too long."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        raise JobError(f"The name of a job must be a text of at most {_LONGEST_NAME} characters.")
    return " ".join("".join(each if each.isprintable() else " " for each in name).split())
