"""Identify a process by pid, start time and boot: the system reuses pids, and a reboot assigns them again."""

import contextlib
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

MARK = "NBDIFF_JOB"  # environment variable of a trainer and all its child processes: the id of their job

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SAME_START = 1.0  # seconds by which psutil's start times of one process may differ after the clock is adjusted


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: its pid, its start time, and the boot that it belongs to."""

    pid: int
    started: float  # Linux: ticks since boot, independent of the clock; other systems: seconds since the epoch
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Identity | None":
        """The process that has this pid now; None if there is none, or only a zombie process."""
        started = _started(pid)
        return None if started is None else cls(pid, started, boot_id())

    @classmethod
    def of_ended(cls, pid: int) -> "Identity":
        """A process that had this pid and has ended; a later one with the pid is not taken for it."""
        return cls(pid, -1.0, boot_id())

    @property
    def alive(self) -> bool:
        """Whether this process, and not a later one with its pid, is still running."""
        if self.boot != boot_id():
            return False
        started = _started(self.pid)
        if started is None:
            return False
        return started == self.started if _on_linux() else abs(started - self.started) < _SAME_START

    def send(self, number: int) -> bool:
        """Send a signal to the process. Returns whether it was still running."""
        if not self.alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill_group(self) -> None:
        """Kill the process and its process group (SIGKILL)."""
        if self.alive:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it has not created its group yet
                self.send(signal.SIGKILL)


@cache
def boot_id() -> str:
    """An id that differs for each boot of the machine."""
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
        fields = stat[stat.rindex(b")") + 1 :].split()  # the process name before it can contain any character
        return None if fields[0] in (b"Z", b"X") else float(fields[19])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def kill_left_over(job: str) -> None:
    """Kill the processes that an ended trainer left running. They have the job's id in their environment."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == job:
                process.kill()


def threads_each(slots: int) -> int:
    """CPU threads per trainer if `slots` trainers run at once: OMP_NUM_THREADS, or a share of this process's cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not available on this system
        cores = os.cpu_count() or 1
    return max(1, cores // slots)
