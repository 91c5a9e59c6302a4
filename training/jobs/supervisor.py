"""Update the store to the real state of the processes, and start the next job of the queue.

There is no daemon: every process that opens the store does this under the lock, and every runner does it when its
trainer has ended.
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from training.jobs import states
from training.jobs.failures import verdict
from training.jobs.places import cluster_of, log_of, recipe_of, run_of
from training.jobs.processes import Identity, boot_id, kill_left_over
from training.jobs.progress import START
from training.jobs.store import JobRow, Ledger, Store, clock, now
from training.run.end_file import END
from training.run.manifest import is_complete

GRACE = 30.0  # seconds from SIGTERM to SIGKILL
_ATTEMPTS = 3  # consecutive starts whose runner dies before the trainer starts; then the job fails
_SLACK = 5.0  # seconds after the deadline at which other processes do the runner's work
TEST_TRAINER = "NBDIFF_JOB_TRAINER"  # environment variable for tests: a Python file to run instead of `-m training`

_spawned: list[subprocess.Popen] = []  # child runners; `poll` reaps those that have ended


def command(kind: str, folder: Path) -> list[str]:
    """The argv of a job's trainer. With --resume if the folder already contains a run."""
    test_trainer = os.environ.get(TEST_TRAINER)
    program = [test_trainer] if test_trainer else ["-m", "training"]
    if cluster_of(folder).exists():  # which starts the same program on the cluster
        program = ["-m", "training.on_ray.job_client"]
    resume = ["--resume"] if (run_of(folder) / "recipe.yaml").exists() else []
    files = ["--recipe", str(recipe_of(folder)), "--output", str(run_of(folder))]
    return [sys.executable, *program, kind, *files, *resume]


def environment() -> dict[str, str]:
    """The environment of this process, with the project on PYTHONPATH."""
    root = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{before}" if before else root}


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Keeps the store up to date. slots: jobs that can run at once. grace: seconds between SIGTERM and SIGKILL."""

    store: Store
    slots: int = 1
    grace: float = GRACE

    def reconcile(self, ledger: Ledger) -> None:
        """Record the jobs that ended without a runner, and start queued jobs while slots are free."""
        _spawned[:] = [each for each in _spawned if each.poll() is None]
        for row in ledger.rows():
            if row.state not in states.LIVE:
                continue
            try:
                self._update(ledger, row)
            except (OSError, ValueError, ArithmeticError) as error:  # an error in one job must not stop the others
                ledger.move_to(row, states.FAILED, f"it cannot be supervised: {error}")
        self._start_next(ledger)

    def _update(self, ledger: Ledger, row: JobRow) -> None:
        process = row.runner or row.trainer
        if process.boot != boot_id():
            self._after_a_reboot(ledger, row)
        elif row.state == states.STARTING:
            if not row.runner.alive:
                self._start_again(ledger, row)
        elif row.runner is not None and row.runner.alive:
            if row.stop_at is not None and clock() > row.stop_at + _SLACK:
                self.kill(ledger, row)
        elif row.trainer.alive:
            if row.stop_at is not None and clock() > row.stop_at:
                self.kill(ledger, row)
            # Without a runner, nothing would record the end of this job and start the next one.
            with contextlib.suppress(OSError):
                ledger.change(row.id, **self._spawn(row, "watch"))
        else:
            kill_left_over(row.id)
            self.end(ledger, row, None)

    def _after_a_reboot(self, ledger: Ledger, row: JobRow) -> None:
        if row.state == states.STARTING:
            ledger.move_to(row, states.QUEUED, "the machine was restarted before the trainer started")
        elif is_complete(run_of(self.store.places.folder(row.id)) / "final"):
            ledger.move_to(row, states.FINISHED)
        else:
            ledger.move_to(row, states.LOST, "the machine was restarted while it ran; resume it to continue")

    def _start_again(self, ledger: Ledger, row: JobRow) -> None:
        if row.attempts < _ATTEMPTS:
            ledger.move_to(row, states.QUEUED, "its runner ended before the trainer started")
        else:
            reason = f"its runner ended before the trainer started, {row.attempts} times; see its log"
            ledger.move_to(row, states.FAILED, reason)

    def kill(self, ledger: Ledger, row: JobRow) -> None:
        """Kill the trainer and its process group. Its runner, or the next `reconcile`, records the end."""
        ledger.change(row.id, killed=1)
        row.killed = True
        row.trainer.kill_group()

    def end(self, ledger: Ledger, row: JobRow, code: int | None) -> None:
        """Record how a run ended. code: as in `verdict`."""
        folder = self.store.places.folder(row.id)
        ledger.move_to(row, *verdict(code, folder, row.state == states.STOPPING, row.killed, self.grace))

    # -- starting -----------------------------------------------------------------------------------------

    def _start_next(self, ledger: Ledger) -> None:
        free = self.slots - sum(row.state in states.LIVE for row in ledger.rows())
        for row in ledger.queue():
            if free < 1:
                return
            free -= self._start(ledger, row)

    def _start(self, ledger: Ledger, row: JobRow) -> bool:
        """Start a job's runner. Returns False if it cannot start: the job fails and uses no slot."""
        folder = self.store.places.folder(row.id)
        if not recipe_of(folder).is_file():
            ledger.move_to(row, states.FAILED, "missing file: its recipe.yaml is missing, so it cannot be started")
            return False
        try:
            run = run_of(folder)
            if run.exists() and not (run / "recipe.yaml").exists():
                shutil.rmtree(run)  # the last start ended before the run began; the trainer needs an empty folder
            run.mkdir(exist_ok=True)  # for end.json, which the trainer also writes if it fails before the run begins
            (run / END).unlink(missing_ok=True)  # of the last start; the trainer might end without writing one
            with log_of(folder).open("a", encoding="utf-8") as log:
                log.write(f"{START}{now()}: {shlex.join(command(row.kind, folder))}\n")
            columns = self._spawn(row, "start")
        except OSError as error:
            ledger.move_to(row, states.FAILED, f"it cannot be started: {error.strerror or error}")
            return False
        ledger.move_to(row, states.STARTING, **columns, started=now(), attempts=row.attempts + 1)
        return True

    def _spawn(self, row: JobRow, how: str) -> dict[str, object]:
        """Start a runner. It waits for the lock and exits if its token is not in the store.

        So a job has at most one runner: if we are killed before the commit, the new runner exits.
        """
        folder = self.store.places.folder(row.id)
        token = secrets.token_hex(8)
        home = str(self.store.places.home.absolute())
        arguments = [home, row.id, token, str(self.slots), str(self.grace), how]
        with log_of(folder).open("ab") as log:
            runner = subprocess.Popen(
                [sys.executable, "-m", "training.jobs.runner", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment(),
                start_new_session=True,
            )
        _spawned.append(runner)
        # One that has ended already is found later, as one that ends after this, and started again.
        identity = Identity.of(runner.pid) or Identity.of_ended(runner.pid)
        return {
            "token": token,
            "runner_pid": identity.pid,
            "runner_started": identity.started,
            "boot": identity.boot,
        }

    # -- stopping -----------------------------------------------------------------------------------------

    def stop(self, ledger: Ledger, row: JobRow) -> None:
        """Cancel a job, or signal its trainer to save and end. Does nothing if the job is stopping or has ended."""
        if row.state == states.QUEUED:
            ledger.move_to(row, states.STOPPED, "cancelled before it started")
        elif row.state == states.STARTING:
            # This removes the token from the row, so the runner exits without starting the trainer.
            ledger.move_to(row, states.STOPPED, "stopped before it started")
        elif row.state == states.RUNNING:
            # The signal first: if we are killed before the commit, the trainer still saves and ends.
            row.trainer.send(signal.SIGTERM)
            ledger.move_to(row, states.STOPPING, "asked to save and end", stop_at=clock() + self.grace)
