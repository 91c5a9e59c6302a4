"""Processes that are known by more than a number: a pid is used again, and a reboot starts them all over."""

import contextlib
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

MARK = "NBDIFF_JOB"  # in the environment of a trainer and of all it starts: the id of their job

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SAME = 1.0  # seconds within which psutil's start times, which follow the clock when it is set, are one


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of one boot: its pid, when it started, and which boot it was."""

    pid: int
    started: float  # ticks since boot on Linux, which no setting of the clock moves; elsewhere seconds of the epoch
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """Who has this pid now; None if nobody, or only what is left of a process until its parent asks."""
        started = _started(pid)
        return None if started is None else cls(pid, started, boot_id())

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        if self.boot != boot_id():
            return False
        started = _started(self.pid)
        if started is None:
            return False
        return started == self.started if _on_linux() else abs(started - self.started) < _SAME

    def send(self, number: int) -> bool:
        """Send a signal to the process; whether it was there to get it."""
        if not self.alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill_group(self) -> None:
        """End the process and the group that it leads, at once."""
        if self.alive:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it has not made its group yet
                self.send(signal.SIGKILL)


@cache
def boot_id() -> str:
    """What tells this boot of the machine from the last."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time() / 60:.0f}"


@cache
def _on_linux() -> bool:
    return Path("/proc/self/stat").exists()


def _started(pid: int) -> float | None:
    if _on_linux():
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        fields = stat[stat.rindex(b")") + 1 :].split()  # the name before it may hold anything
        return None if fields[0] in (b"Z", b"X") else float(fields[19])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def kill_left_over(job: str) -> None:
    """End whatever a trainer that is gone has left running: each carries the job's id in its environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == job:
                process.kill()


def threads_each(slots: int) -> int:
    """CPU threads of each of so many trainers at once: OMP_NUM_THREADS, or a share of this process's cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    return max(1, cores // slots)
