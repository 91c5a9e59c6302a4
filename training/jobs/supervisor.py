"""What is true of the jobs, made true in the store; and the next one of the queue, started.

There is no daemon: whoever opens the store does this, under its lock, and so does each runner as its last act.
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
from training.jobs.places import log_of, recipe_of, run_of
from training.jobs.processes import Identity, boot_id, kill_left_over
from training.jobs.progress import START
from training.jobs.store import JobRow, Ledger, Store, clock, now
from training.run.end_file import END
from training.run.manifest import is_whole

GRACE = 30.0  # seconds from SIGTERM to SIGKILL
_ATTEMPTS = 3  # starts whose runner dies before there is a trainer, after which a job has failed
_SLACK = 5.0  # seconds after which others do what a runner should have done
_STAND_IN = "NBDIFF_JOB_TRAINER"  # environment: a Python file that is run in place of `-m training`, for tests

_spawned: list[subprocess.Popen] = []  # runners that are children of this process, and wait to be asked how they ended


def command(kind: str, folder: Path) -> list[str]:
    """The argv of a job's trainer. It goes on where a run is already in the folder."""
    stand_in = os.environ.get(_STAND_IN)
    program = [stand_in] if stand_in else ["-m", "training"]
    resume = ["--resume"] if (run_of(folder) / "recipe.yaml").exists() else []
    files = ["--recipe", str(recipe_of(folder)), "--output", str(run_of(folder))]
    return [sys.executable, *program, kind, *files, *resume]


def environment() -> dict[str, str]:
    """This process's, with the project importable from anywhere."""
    root = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{before}" if before else root}


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Keeps the store true. slots: jobs that may run at once; grace: seconds between SIGTERM and SIGKILL."""

    store: Store
    slots: int = 1
    grace: float = GRACE

    def reconcile(self, ledger: Ledger) -> None:
        """Settle what has ended unseen, and start what there is a slot for."""
        _spawned[:] = [each for each in _spawned if each.poll() is None]
        for row in ledger.rows():
            if row.state not in states.LIVE:
                continue
            try:
                self._settle(ledger, row)
            except (OSError, ValueError, ArithmeticError) as error:  # one job never keeps the others waiting
                ledger.move_to(row, states.FAILED, f"it cannot be looked after: {error}")
        self._start_next(ledger)

    def _settle(self, ledger: Ledger, row: JobRow) -> None:
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
            # Nobody would start the next job when this one ends, nor see how it does.
            with contextlib.suppress(OSError):
                ledger.change(row.id, **self._spawn(row, "watch"))
        else:
            kill_left_over(row.id)
            self.end(ledger, row, None)

    def _after_a_reboot(self, ledger: Ledger, row: JobRow) -> None:
        if row.state == states.STARTING:
            ledger.move_to(row, states.QUEUED, "the machine was restarted before it began")
        elif is_whole(run_of(self.store.places.folder(row.id)) / "final"):
            ledger.move_to(row, states.FINISHED)
        else:
            ledger.move_to(row, states.LOST, "the machine was restarted while it ran; resume it to go on")

    def _start_again(self, ledger: Ledger, row: JobRow) -> None:
        if row.attempts < _ATTEMPTS:
            ledger.move_to(row, states.QUEUED, "its runner ended before the trainer had begun")
        else:
            reason = f"its runner ended before the trainer had begun, {row.attempts} times; its log may say why"
            ledger.move_to(row, states.FAILED, reason)

    def kill(self, ledger: Ledger, row: JobRow) -> None:
        """End the trainer and its group at once. Its runner, or the next to reconcile, sees it gone."""
        ledger.change(row.id, killed=1)
        row.killed = True
        row.trainer.kill_group()

    def end(self, ledger: Ledger, row: JobRow, code: int | None) -> None:
        """Write down how a run has ended. code: as in `verdict`."""
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
        """Start a job's runner; whether it took a slot. One that cannot be started never blocks the next."""
        folder = self.store.places.folder(row.id)
        if not recipe_of(folder).is_file():
            ledger.move_to(row, states.FAILED, "missing file: its recipe.yaml is gone, so it cannot be started")
            return False
        try:
            run = run_of(folder)
            if run.exists() and not (run / "recipe.yaml").exists():
                shutil.rmtree(run)  # the last start ended before the run had begun: the trainer needs an empty folder
            run.mkdir(exist_ok=True)  # for the trainer's end.json, also where it fails before the run begins
            (run / END).unlink(missing_ok=True)  # of the last start; this one may end without writing any
            with log_of(folder).open("a", encoding="utf-8") as log:
                log.write(f"{START}{now()}: {shlex.join(command(row.kind, folder))}\n")
            columns = self._spawn(row, "start")
        except OSError as error:
            ledger.move_to(row, states.FAILED, f"it cannot be started: {error.strerror or error}")
            return False
        ledger.move_to(row, states.STARTING, **columns, started=now(), attempts=row.attempts + 1)
        return True

    def _spawn(self, row: JobRow, how: str) -> dict[str, object]:
        """Start a runner. It waits for the lock, and for the token to be in the store: without it, it goes away.

        So a job has one runner at most: if we are killed before the transaction ends, it has never been started.
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
        identity = Identity.of(runner.pid)
        if identity is None:
            raise OSError("its runner ended at once")
        return {
            "token": token,
            "runner_pid": identity.pid,
            "runner_started": identity.started,
            "boot": identity.boot,
        }

    # -- stopping -----------------------------------------------------------------------------------------

    def stop(self, ledger: Ledger, row: JobRow) -> None:
        """Cancel a job, or tell its trainer to save and end. Does nothing where that was done before."""
        if row.state == states.QUEUED:
            ledger.move_to(row, states.STOPPED, "cancelled before it began")
        elif row.state == states.STARTING:
            # Its runner finds the token gone, and the trainer is never begun.
            ledger.move_to(row, states.STOPPED, "stopped before it began")
        elif row.state == states.RUNNING:
            # The signal first: if we are killed in between, a trainer that saves and ends is what was wanted.
            row.trainer.send(signal.SIGTERM)
            ledger.move_to(row, states.STOPPING, "told to save and end", stop_at=clock() + self.grace)
