"""The process that runs one trainer: starts it, waits for it, records how it ended, and starts the next job.

    python -m training.jobs.runner HOME ID TOKEN SLOTS GRACE start|watch

It does not import torch, because it stays in memory as long as the trainer, possibly for days. If it is killed, the
trainer continues, and the next process that opens the store starts a runner with "watch".
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

_NICENESS = "10"  # of a trainer: keeps the page responsive on the same machine
_NICENESS_SET = "NBDIFF_JOB_NICE"  # environment variable: another niceness, from 0 to 19
_POLL = 0.1  # seconds between checks of the trainer
_STORE_POLL = 1.0  # seconds between checks of the store, for a stop whose grace period is over
_OOM_SCORE = "300"  # of 1000: if memory runs out, the kernel kills the trainer before the page


class Runner:
    """One start of one job."""

    def __init__(self, home: Path, job: str, token: str, slots: int, grace: float):
        self.job = job
        self.token = token
        self.store = Store(home)
        self.supervisor = Supervisor(self.store, slots, grace)
        self.folder = self.store.places.folder(job)

    def start(self) -> None:
        """Start the trainer, unless this start was cancelled, and wait until it ends."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            self._exec_trainer(read, write)
        os.close(read)
        # The trainer is recorded before it starts: a kill between the two leaves no unrecorded trainer.
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
        self._wait_for_end(row, lambda: _ended(child))
        kill_left_over(self.job)  # before waitpid, so that the pid is not reused yet
        self._finish(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def watch(self) -> None:
        """Wait for a trainer that another runner started."""
        with self.store.open() as ledger:
            row = ledger.get(self.job)
        if row is None or row.token != self.token or row.trainer is None:
            return
        self._wait_for_end(row, lambda: not row.trainer.alive)
        kill_left_over(self.job)
        self._finish(None)

    def _exec_trainer(self, read: int, write: int) -> None:
        """In the forked child: wait for the start message, then exec the trainer. Never returns."""
        try:
            os.close(write)
            os.setsid()
            message = os.read(read, 100).decode()
            if not message:  # the runner was killed, or the start was cancelled
                os._exit(0)
            kind, threads = message.split()
            os.nice(int(os.environ.get(_NICENESS_SET) or _NICENESS))
            # Ignored until the trainer installs its handler: an early "save now" would kill it.
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            with contextlib.suppress(OSError):  # not Linux, or not permitted
                Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
            env = {**environment(), MARK: self.job, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
            argv = command(kind, self.folder)
            os.execve(argv[0], argv, env)
        except BaseException as error:
            print(f"error: the trainer cannot be started: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)

    def _wait_for_end(self, row: JobRow, ended) -> None:
        checked = time.monotonic()
        while not ended():
            time.sleep(_POLL)
            if time.monotonic() - checked < _STORE_POLL:
                continue
            checked = time.monotonic()
            try:
                with self.store.open() as ledger:
                    row = ledger.get(self.job) or row
                    if row.token == self.token and row.stop_at is not None and clock() > row.stop_at:
                        self.supervisor.kill(ledger, row)
            except StoreError:
                continue  # such as a full disk; the trainer must not stop for it

    def _finish(self, code: int | None) -> None:
        """Record how the trainer ended, and start the next job. Retries for a minute if the store cannot be used."""
        for attempt in range(60):
            try:
                self._record_end(code)
                return
            except StoreError as error:
                if attempt == 0:
                    print(f"the end of the job cannot be recorded: {error}", file=sys.stderr, flush=True)
                time.sleep(1)

    def _record_end(self, code: int | None) -> None:
        with self.store.open() as ledger:
            row = ledger.get(self.job)
        if row is not None and row.token == self.token:
            # Outside the lock, because verifying a large model takes long. `killed` cannot change after the end.
            found = verdict(code, self.folder, row.state == states.STOPPING, row.killed, self.supervisor.grace)
        with self.store.open() as ledger:
            row = ledger.get(self.job)
            if row is not None and row.token == self.token and row.state in states.LIVE:
                ledger.move_to(row, *found)
            self.supervisor.reconcile(ledger)


def _ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    """Run one start of one job. All output goes to the job's log."""
    home, job, token, slots, grace, how = sys.argv[1:]
    if not is_id(job) or how not in ("start", "watch"):
        sys.exit("the runner's arguments are not valid: expected HOME ID TOKEN SLOTS GRACE start|watch")
    runner = Runner(Path(home), job, token, int(slots), float(grace))
    runner.start() if how == "start" else runner.watch()


if __name__ == "__main__":
    main()
