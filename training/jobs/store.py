"""The store in SQLite: one row for each job, and every transition with its time and reason.

Every read and write holds one lock and is part of one transaction, so a killed process changes nothing.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from training.jobs import states
from training.jobs.places import Places, is_id
from training.jobs.processes import Identity, kill_left_over

_LOCK_TIMEOUT = 60.0  # seconds
_RESERVE = 512 * 1024  # bytes of a file that is deleted when the disk is full, so that a failure can still be recorded
_MIN_FREE = 128 * 1024  # bytes; with less free space, the reserve is deleted

_SCHEMA = """
create table if not exists jobs (
    number integer primary key autoincrement, id text unique not null, name text, spec text, kind text,
    state text, reason text, created text, started text, finished text, place integer, max_steps integer,
    threads integer, token text, attempts integer default 0,
    runner_pid integer, runner_started real, pid integer, pid_started real, boot text,
    stop_at real, killed integer default 0);
create table if not exists transitions (
    number integer primary key autoincrement, job text not null, state text, time text, reason text);
create index if not exists transitions_of_a_job on transitions (job);
"""


class StoreError(Exception):
    """The store cannot be used. The message is one sentence."""


class DamagedRow(Exception):
    """A row with values that this package never writes."""


@dataclass(slots=True)
class JobRow:
    """A row of the store."""

    id: str
    number: int  # increases with each submitted job
    name: str
    spec: str  # JSON
    kind: str  # adapt or pretrain: the command that runs it
    state: str
    reason: str
    created: str  # ISO time, UTC, as all times
    started: str | None
    finished: str | None
    place: int | None  # in the queue; the lowest starts next
    max_steps: int | None
    threads: int | None
    token: str | None  # of the latest start; a runner with another token exits
    attempts: int  # consecutive starts whose runner died before the trainer started
    runner: Identity | None
    trainer: Identity | None
    stop_at: float | None  # time, in seconds since the epoch, at which the job is killed
    killed: bool  # whether we killed the job


class Transition(NamedTuple):
    """A state that a job entered."""

    state: str
    time: str  # ISO, UTC
    reason: str


class Ledger:
    """The store while its lock is held and a transaction is open."""

    def __init__(self, connection: sqlite3.Connection):
        self._connection = connection

    def ids(self) -> list[str]:
        """Ids of all jobs, newest first. Rows whose id is not valid, and so unsafe as a folder name, are deleted."""
        found = [row["id"] for row in self._connection.execute("select id from jobs order by number desc")]
        for job in found:
            if not is_id(job):
                self._connection.execute("delete from jobs where id is ?", (job,))
        return [job for job in found if is_id(job)]

    def rows(self) -> list[JobRow]:
        """All jobs, newest first. A damaged row is repaired so that it can be shown, and its job fails."""
        self.ids()
        found = []
        for raw in self._connection.execute("select * from jobs order by number desc").fetchall():
            try:
                found.append(_row(raw))
            except (DamagedRow, TypeError, ValueError) as error:
                found.append(self._repair(raw, str(error)))
        return found

    def get(self, job: str) -> JobRow | None:
        """The row of a job; None if it does not exist."""
        raw = self._connection.execute("select * from jobs where id = ?", (job,)).fetchone()
        if raw is None or not is_id(job):
            return None
        try:
            return _row(raw)
        except (DamagedRow, TypeError, ValueError) as error:
            return self._repair(raw, str(error))

    def add(self, job: str, **columns: Any) -> None:
        """Add a job at the end of the queue."""
        columns = {"id": job, "state": states.QUEUED, "reason": "", "created": now(), **columns}
        columns["place"] = self._last_place() + 1
        marks = ", ".join("?" for _ in columns)
        self._connection.execute(f"insert into jobs ({', '.join(columns)}) values ({marks})", tuple(columns.values()))
        self._note(job, states.QUEUED, "")

    def move_to(self, row: JobRow, state: str, reason: str = "", **columns: Any) -> None:
        """Record a transition and set `columns`. Raises ValueError for a transition that is not allowed."""
        if state not in states.FOLLOWING[row.state]:
            raise ValueError(f"a job that is {row.state} cannot become {state}")
        columns |= {"state": state, "reason": reason}
        if state == states.QUEUED:
            columns |= {"place": self._last_place() + 1, "finished": None} if row.state != states.STARTING else {}
            columns |= _NO_PROCESS
        elif state in states.ENDED:
            columns |= {"finished": now(), "place": None, **_NO_PROCESS}
        self.change(row.id, **columns)
        self._note(row.id, state, reason)
        row.state, row.reason = state, reason

    def change(self, job: str, **columns: Any) -> None:
        """Set columns other than the state."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self._connection.execute(f"update jobs set {names} where id = ?", (*columns.values(), job))

    def queue(self) -> list[JobRow]:
        """Queued jobs, the next one first."""
        waiting = [row for row in self.rows() if row.state == states.QUEUED]
        return sorted(waiting, key=lambda row: (row.place or 0, row.number))

    def delete(self, job: str) -> None:
        """Delete a job and its transitions."""
        self._connection.execute("delete from jobs where id = ?", (job,))
        self._connection.execute("delete from transitions where job = ?", (job,))

    def transitions(self, job: str) -> list[Transition]:
        """The transitions of a job, oldest first."""
        query = "select state, time, reason from transitions where job = ? order by number"
        return [Transition(*row) for row in self._connection.execute(query, (job,))]

    def _last_place(self) -> int:
        places = [row[0] for row in self._connection.execute("select place from jobs where place is not null")]
        return max((each for each in places if isinstance(each, int)), default=0)

    def _note(self, job: str, state: str, reason: str) -> None:
        values = (job, state, now(), reason)
        self._connection.execute("insert into transitions (job, state, time, reason) values (?, ?, ?, ?)", values)

    def _repair(self, raw: sqlite3.Row, why: str) -> JobRow:
        reason = f"its row in the store was damaged ({why}); its folder is untouched, and it can be resumed"
        kill_left_over(raw["id"])  # the pids in the row cannot be trusted
        repaired = {
            "name": _text(raw["name"]),
            "spec": raw["spec"] if _is_json(raw["spec"]) else "{}",
            "kind": raw["kind"] if raw["kind"] in ("adapt", "pretrain") else "adapt",
            "created": _text(raw["created"]) or now(),
            "started": None,
            "max_steps": raw["max_steps"] if isinstance(raw["max_steps"], int) else None,
            "threads": raw["threads"] if isinstance(raw["threads"], int) else None,
            "attempts": 0,
            "state": states.FAILED,
            "reason": reason,
            "finished": now(),
            "place": None,
            **_NO_PROCESS,
        }
        self.change(raw["id"], **repaired)
        self._note(raw["id"], states.FAILED, reason)
        return _row(self._connection.execute("select * from jobs where id = ?", (raw["id"],)).fetchone())


_NO_PROCESS = dict.fromkeys(("token", "runner_pid", "runner_started", "pid", "pid_started", "boot", "stop_at"))
_NO_PROCESS["killed"] = 0


class Store:
    """The store of one home. Safe to use from any number of processes and threads."""

    def __init__(self, home: Path):
        self.places = Places(home)

    @property
    def exists(self) -> bool:
        """Whether a job was ever submitted to this home."""
        return self.places.database.exists()

    @contextlib.contextmanager
    def open(self) -> Iterator[Ledger]:
        """Lock the store and open a transaction. It is committed at the end, or rolled back after an exception.

        Raises StoreError if the home cannot be written, another process keeps the lock for a minute, or the file is
        not a store.
        """
        try:
            self.places.jobs.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.places.lock, timeout=_LOCK_TIMEOUT, poll_interval=0.01)
            with lock, contextlib.closing(self._connect()) as connection:
                connection.execute("begin immediate")
                try:
                    yield Ledger(connection)
                except BaseException:
                    connection.execute("rollback")
                    raise
                connection.execute("commit")
            self._write_reserve()
        except Timeout as error:
            raise StoreError(f"The store in {self.places.home} is busy; try again.") from error
        except sqlite3.Error as error:
            raise StoreError(f"The store {self.places.database} cannot be used: {error}.") from error
        except OSError as error:
            raise StoreError(f"The folder {self.places.home} cannot be used: {error.strerror or error}.") from error

    def _connect(self) -> sqlite3.Connection:
        # On a full disk a failure must still be recorded, and SQLite needs free space even to read.
        if shutil.disk_usage(self.places.home).free < _MIN_FREE:
            self.places.reserve.unlink(missing_ok=True)
        connection = sqlite3.connect(self.places.database, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            if connection.execute("pragma user_version").fetchone()[0] == 0:
                connection.executescript(_SCHEMA + "pragma user_version = 1;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _write_reserve(self) -> None:
        if self.places.reserve.exists() or shutil.disk_usage(self.places.home).free < 4 * _RESERVE:
            return
        partial = self.places.reserve.with_suffix(".part")
        try:
            partial.write_bytes(os.urandom(_RESERVE))  # random: some file systems store zeros without using space
            os.replace(partial, self.places.reserve)
        except OSError:
            partial.unlink(missing_ok=True)


def now() -> str:
    """The current time, as ISO, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def clock() -> float:
    """The current time, in seconds since the epoch."""
    return time.time()


def _row(raw: sqlite3.Row) -> JobRow:
    state = raw["state"]
    if state not in states.ALL:
        raise DamagedRow("no such state")
    if not _is_json(raw["spec"]):
        raise DamagedRow("no spec")
    for name in ("name", "reason", "created"):
        if not isinstance(raw[name], str):
            raise DamagedRow(f"no {name}")
    if raw["kind"] not in ("adapt", "pretrain"):
        raise DamagedRow("no kind")
    for name in ("place", "max_steps", "threads", "stop_at"):
        if not isinstance(raw[name], int | float | None):
            raise DamagedRow(f"no {name}")
    for name in ("started", "finished", "token"):
        if not isinstance(raw[name], str | None):
            raise DamagedRow(f"no {name}")
    runner = _identity(raw["runner_pid"], raw["runner_started"], raw["boot"])
    trainer = _identity(raw["pid"], raw["pid_started"], raw["boot"])
    if state in (states.RUNNING, states.STOPPING) and trainer is None:
        raise DamagedRow("no process")
    if state == states.STARTING and runner is None:
        raise DamagedRow("no runner")
    return JobRow(
        **{name: raw[name] for name in ("id", "number", "name", "spec", "kind", "state", "reason", "created")},
        **{name: raw[name] for name in ("started", "finished", "place", "max_steps", "threads", "token")},
        attempts=int(raw["attempts"] or 0),
        runner=runner,
        trainer=trainer,
        stop_at=raw["stop_at"],
        killed=bool(raw["killed"]),
    )


def _identity(pid: Any, started: Any, boot: Any) -> Identity | None:
    if pid is None:
        return None
    if not (isinstance(pid, int) and pid > 1 and isinstance(started, int | float) and isinstance(boot, str)):
        raise DamagedRow("no process")
    return Identity(pid, float(started), boot)


def _is_json(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (TypeError, ValueError, RecursionError):
        return False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
