"""The process between the store and one trainer: starts it, waits for it, says how it ended, starts the next job.

    python -m training.jobs.runner HOME ID TOKEN SLOTS GRACE start|watch

It imports no torch, so that it weighs little beside a trainer that may live for days. If it is killed the trainer
goes on, and whoever next looks at the jobs gives it a runner that watches it.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from training.jobs import states
from training.jobs.failures import verdict
from training.jobs.places import is_id
from training.jobs.processes import MARK, Identity, kill_left_over, threads_each
from training.jobs.store import JobRow, Store, StoreError, clock
from training.jobs.supervisor import Supervisor, command, environment

_NICENESS = 10  # a page beside it stays usable
_POLL = 0.1  # seconds between looks at the trainer
_LOOK = 1.0  # seconds between looks at the store, for a stop whose time is up
_OUT_OF_MEMORY_FIRST = "300"  # of 1000: the kernel ends a trainer sooner than the page beside it


class Runner:
    """One start of one job."""

    def __init__(self, home: Path, job: str, token: str, slots: int, grace: float):
        self.job = job
        self.token = token
        self.store = Store(home)
        self.supervisor = Supervisor(self.store, slots, grace)
        self.folder = self.store.places.folder(job)

    def start(self) -> None:
        """Start the trainer, if this start is still wanted, and see it to its end."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            self._become_the_trainer(read, write)
        os.close(read)
        # The trainer is written down before it is begun: a kill between the two leaves none that nobody knows.
        with self.store.open() as ledger:
            row = ledger.get(self.job)
            identity = Identity.of(child)
            wanted = row is not None and row.token == self.token and row.state == states.STARTING and identity
            if wanted:
                ledger.move_to(
                    row, states.RUNNING, pid=child, pid_started=identity.started, boot=identity.boot, place=None
                )
                ledger.change(self.job, attempts=0)
        if not wanted:
            os.close(write)
            os.waitpid(child, 0)
            return
        os.write(write, f"{row.kind} {row.threads or threads_each(self.supervisor.slots)}".encode())
        os.close(write)
        self._see_to_its_end(row, lambda: _ended(child))
        kill_left_over(self.job)  # while the trainer's pid is still its own
        self._finish(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def watch(self) -> None:
        """See a trainer to its end that another runner has started."""
        with self.store.open() as ledger:
            row = ledger.get(self.job)
        if row is None or row.token != self.token or row.trainer is None:
            return
        self._see_to_its_end(row, lambda: not row.trainer.alive)
        kill_left_over(self.job)
        self._finish(None)

    def _become_the_trainer(self, read: int, write: int) -> None:
        """In the forked child: wait for the word to begin, then be the trainer. Never returns."""
        try:
            os.close(write)
            os.setsid()
            word = os.read(read, 100).decode()
            if not word:  # whoever was to say it is gone, or has been told that the start is off
                os._exit(0)
            kind, threads = word.split()
            os.nice(_NICENESS)
            # Ignored until the trainer takes it up: a "save now" that comes too soon would end it.
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            with contextlib.suppress(OSError):  # another system, or not allowed
                Path("/proc/self/oom_score_adj").write_text(_OUT_OF_MEMORY_FIRST, encoding="ascii")
            env = {**environment(), MARK: self.job, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
            argv = command(kind, self.folder)
            os.execve(argv[0], argv, env)
        except BaseException as error:
            print(f"error: the trainer cannot be started: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)

    def _see_to_its_end(self, row: JobRow, ended) -> None:
        looked = time.monotonic()
        while not ended():
            time.sleep(_POLL)
            if time.monotonic() - looked < _LOOK:
                continue
            looked = time.monotonic()
            try:
                with self.store.open() as ledger:
                    row = ledger.get(self.job) or row
                    if row.token == self.token and row.stop_at is not None and clock() > row.stop_at:
                        self.supervisor.kill(ledger, row)
            except StoreError:
                continue  # a full disk, say: the trainer has no part in it

    def _finish(self, code: int | None) -> None:
        """Write down how it ended, and start the next job."""
        for attempt in range(60):
            try:
                self._write_down(code)
                return
            except StoreError as error:
                if attempt == 0:
                    print(f"the end of the job cannot be written down: {error}", file=sys.stderr, flush=True)
                time.sleep(1)

    def _write_down(self, code: int | None) -> None:
        with self.store.open() as ledger:
            row = ledger.get(self.job)
        if row is not None and row.token == self.token:
            # Outside the lock: reading a large model whole takes a while. `killed` is only ever set before an end.
            found = verdict(code, self.folder, row.state == states.STOPPING, row.killed, self.supervisor.grace)
        with self.store.open() as ledger:
            row = ledger.get(self.job)
            if row is not None and row.token == self.token and row.state in states.LIVE:
                ledger.move_to(row, *found)
            self.supervisor.reconcile(ledger)


def _ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    """Run one start of one job; everything it has to say goes to the job's log."""
    home, job, token, slots, grace, how = sys.argv[1:]
    if not is_id(job) or how not in ("start", "watch"):
        sys.exit("the runner was started with arguments that are none")
    runner = Runner(Path(home), job, token, int(slots), float(grace))
    runner.start() if how == "start" else runner.watch()


if __name__ == "__main__":
    main()
