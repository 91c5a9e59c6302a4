"""Jobs: submit, watch, stop, resume, delete. What the page and the command line talk to."""

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
from training.jobs import places, states
from training.jobs.job_errors import JobError
from training.jobs.job_spec import JobSpec
from training.jobs.processes import threads_each
from training.jobs.progress import json_lines, last_step, log_lines
from training.jobs.store import JobRow, Ledger, Store, StoreError, Transition
from training.jobs.supervisor import GRACE, Supervisor, command
from training.run.checkpointing import Checkpoint, CheckpointStore
from training.run.log_lines import Evaluation, Probe, StepFigures

_LONGEST_NAME = 200

Line = TypeVar("Line")


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A job as it was at one moment. Times are ISO, in UTC."""

    id: str
    name: str
    state: str  # queued, starting, running, stopping, stopped, finished, failed or lost
    reason: str  # of the latest transition; empty where there is nothing to say
    pid: int | None  # the trainer's own, while there is one
    step: int  # steps that the run's log tells of
    max_steps: int | None
    folder: Path
    run: Path  # the run's folder, in it
    spec: JobSpec
    created: str
    started: str | None  # the latest start
    finished: str | None  # the latest end
    queue_place: int | None  # 1 is the next; None if it does not wait

    def to_json(self) -> dict[str, Any]:
        """Every field, as JSON has it."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return found | {"folder": str(self.folder), "run": str(self.run), "spec": self.spec.model_dump(mode="json")}


class Jobs:
    """The jobs of one home. Any number of these, in any number of processes, may be at work on it at once."""

    def __init__(self, home: Path | str | None = None, slots: int = 1, grace: float = GRACE):
        """home: None takes `places.home()`. slots: jobs that run at once. grace: seconds from SIGTERM to SIGKILL.

        Raises JobError for a number that is out of range, and on a system without process groups. Writes nothing.
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

    # -- looking ------------------------------------------------------------------------------------------

    def list(self) -> list[TrainingJob]:
        """All jobs, newest first."""
        if not self._store.exists:
            return []
        with self._open() as ledger:
            rows = ledger.rows()
        queue = _places(rows)
        return [self._job(row, queue) for row in rows]

    def get(self, id: str) -> TrainingJob:
        """One job. Raises JobError for one that is not there."""
        with self._at(id) as (ledger, row):
            queue = _places(ledger.rows())
        return self._job(row, queue)

    def transitions(self, id: str) -> list[Transition]:
        """Every transition, the first one first."""
        with self._at(id) as (ledger, row):
            return ledger.transitions(row.id)

    def log_tail(self, id: str, lines: int = 40) -> str:
        """The last lines that the trainer has printed."""
        return "\n".join(log_lines(places.log_of(self._folder(id)), max(lines, 0)))

    def metrics(self, id: str) -> list[StepFigures]:
        """The lines of the run's metrics.jsonl; one that is half written is left out, as in the other logs."""
        return self._log(id, "metrics.jsonl", StepFigures.read)

    def evaluations(self, id: str) -> list[Evaluation]:
        """The lines of the run's evaluations.jsonl."""
        return self._log(id, "evaluations.jsonl", Evaluation.read)

    def probes(self, id: str) -> list[Probe]:
        """The lines of the run's probes.jsonl."""
        return self._log(id, "probes.jsonl", Probe.read)

    def checkpoints(self, id: str) -> list[Checkpoint]:
        """The run's checkpoints, oldest first."""
        return CheckpointStore(places.run_of(self._folder(id)) / "checkpoints", keep=1).all()

    def command(self, of: str | JobSpec) -> list[str]:
        """The argv of a job's trainer as it would be started now; of a spec, one that trains the same."""
        if isinstance(of, JobSpec):
            return [sys.executable, "-m", "training", *of.command()]
        with self._at(of) as (_, row):
            return command(row.kind, self._folder(row.id))

    # -- doing --------------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec, name: str = "") -> TrainingJob:
        """Queue a job, in a folder of its own; it starts at once if a slot is free.

        Raises JobError for a spec that is not valid, and where the home cannot be written.
        """
        recipe = spec.standing_alone(threads_each(self._supervisor.slots))
        label = _one_line(name) or (spec.label if spec.label != "of its own" else "own recipe")
        with self._open(reconcile=False) as ledger:
            job = _new_id(self._store)
            folder = self._folder(job)
            folder.mkdir()
            try:
                places.recipe_of(folder).write_text(recipe.to_yaml(), encoding="utf-8")
                ledger.add(
                    job,
                    name=label,
                    spec=spec.model_dump_json(),
                    kind=recipe.kind,
                    max_steps=recipe.optimisation.max_steps,
                    threads=recipe.threads,
                )
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return self.get(job)

    def stop(self, id: str) -> TrainingJob:
        """Tell a job to save and end; it is killed where it has not within the grace. A queued one is cancelled.

        Does nothing to a job that is told already, or has ended.
        """
        with self._at(id) as (ledger, row):
            self._supervisor.stop(ledger, row)
        return self.get(id)

    def resume(self, id: str) -> TrainingJob:
        """Queue a stopped, failed or lost job again; it goes on from its newest whole checkpoint.

        Does nothing to a job that waits or runs. Raises JobError for one that is finished, or still stopping.
        """
        with self._at(id) as (ledger, row):
            if row.state in (states.FINISHED, states.STOPPING):
                raise JobError(f"The job {row.id} is {row.state}; only one that has stopped or failed can be resumed.")
            if row.state in states.RESUMABLE:
                if not places.recipe_of(self._folder(row.id)).is_file():
                    raise JobError(f"The job {row.id} cannot be resumed: its recipe.yaml is gone.")
                ledger.move_to(row, states.QUEUED, "to be resumed", attempts=0)
        return self.get(id)

    def save_now(self, id: str) -> None:
        """Have the trainer save a checkpoint at the end of its step, and go on. Raises JobError if it does not run."""
        with self._at(id) as (_, row):
            if row.state != states.RUNNING or not row.trainer.send(signal.SIGUSR1):
                raise JobError(f"The job {row.id} is {row.state}; only one that is running can save.")

    def delete(self, id: str) -> None:
        """Delete a job and its folder, and nothing else. Raises JobError for one that is live."""
        with self._at(id) as (ledger, row):
            if row.state in states.LIVE:
                raise JobError(f"The job {row.id} is {row.state}; stop it before it is deleted.")
            folder = self._folder(row.id)
            doomed = folder.with_name(f".deleted-{row.id}")
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder, doomed)
            ledger.delete(row.id)
        if doomed.is_symlink():  # not made here: what it leads to is not the job's
            doomed.unlink()
        for each in self._store.places.jobs.glob(".deleted-*"):  # with what a kill has left of earlier ones
            shutil.rmtree(each, ignore_errors=True)

    def move(self, id: str, place: int) -> TrainingJob:
        """Put a queued job at a place of the queue, 1 being the next. Raises JobError for one that does not wait."""
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
            spec = JobSpec.model_construct(recipe="")  # of a damaged row
        return TrainingJob(
            id=row.id,
            name=row.name,
            state=row.state,
            reason=row.reason,
            pid=None if row.trainer is None else row.trainer.pid,
            step=last_step(places.run_of(folder) / "metrics.jsonl"),
            max_steps=row.max_steps,
            folder=folder,
            run=places.run_of(folder),
            spec=spec,
            created=row.created,
            started=row.started,
            finished=row.finished,
            queue_place=queue.get(row.id),
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
    """A job's name, which is shown and never part of a path or a command. Raises JobError for one that is too long."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        raise JobError(f"The name of a job is a text of at most {_LONGEST_NAME} characters.")
    return " ".join("".join(each if each.isprintable() else " " for each in name).split())
