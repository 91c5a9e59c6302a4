"""The playground in its own process on a free port."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests import forked
from tests.free_ports import free_port

ROOT = Path(__file__).resolve().parents[2]
APP = "app"
PATCHED_APP = "tests.playground.patched_app"
PATIENCE = 120.0  # seconds until a test fails; the machine may be busy
STARTS = 3  # another process may take the port before the server binds it

# Connects to the server without the proxy of the machine.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class ForkedProcess:
    """A process with those methods of `subprocess.Popen` that the tests use."""

    process: BaseProcess

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout)
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    process: subprocess.Popen | ForkedProcess
    output: Path

    def get(self, path: str = "/") -> bytes:
        with _direct.open(self.url + path, timeout=PATIENCE) as reply:
            return reply.read()


@dataclass(frozen=True, slots=True)
class Gate:
    """Controls the forwards of a server that runs patched_app.py with NBDIFF_TEST_GATE=folder."""

    folder: Path

    def shut(self) -> None:
        """Make each forward wait for a permit."""
        self.folder.mkdir()

    def let(self, forwards: int) -> None:
        """Permit this number of forwards."""
        for _ in range(forwards):
            (self.folder / secrets.token_hex(8)).touch()

    def open(self) -> None:
        """Let all forwards run again. An open gate stays open."""
        if self.folder.exists():
            shutil.rmtree(self.folder.rename(self.folder.with_name(secrets.token_hex(8))))


def run_app(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run app.py with arguments for which it exits before it imports torch."""
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@contextmanager
def serving(
    folder: Path, *arguments: str, app: str = APP, as_users: bool = False, new: bool = False, **environment: str
) -> Iterator[Server]:
    """A server that is ready for requests; it is stopped at the end. Its output is in `folder`/server.log.

    It opens on nano if the arguments name neither a model nor a server of models, because smollm2 would cost each
    server 20 CPU-seconds. app: the module to run. as_users: it opens on what a user sees. new: it is a new process of
    Python, as users start it; otherwise a forked one (tests/forked.py), which saves ten CPU-seconds, and for which
    variables that the libraries read when they are imported have no effect.
    """
    if not {"--model", "--server"}.intersection(arguments) and not as_users:
        arguments = ("--model", "nano", *arguments)
    # A tab of a busy browser may poll late, and its run would be stopped.
    for option, seconds in (("--lease-seconds", "120"), ("--wall-seconds", "600")):
        if option not in arguments:
            arguments = (*arguments, option, seconds)
    for _ in range(STARTS):
        server = _start(folder / "server.log", app, arguments, environment, new)
        try:
            if _answers(server):
                yield server
                return
        finally:
            _end(server.process)
    raise AssertionError(server.output.read_text())


def _start(output: Path, app: str, arguments: Sequence[str], environment: dict[str, str], new: bool) -> Server:
    port = free_port()
    arguments = ["--port", str(port), *arguments]
    output.write_text("")
    if new:
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", app, *arguments],
                env={**os.environ, **environment},
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                # A background job of a shell ignores SIGINT, and its children inherit that. The server must receive
                # SIGINT.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
    else:
        process = ForkedProcess(forked.start(app, arguments, output, output, environment))
    return Server(f"http://127.0.0.1:{port}", process, output)


def _answers(server: Server) -> bool:
    """Wait until the server is ready. Returns False if another process has taken its port."""
    end = time.monotonic() + PATIENCE
    while "is on http" not in (log := server.output.read_text()):
        if server.process.poll() is not None:
            log = server.output.read_text()
            assert "cannot be bound" in log, log
            return False
        assert time.monotonic() < end, log
        time.sleep(0.05)
    return True


def _end(process: subprocess.Popen | ForkedProcess) -> None:
    process.terminate()
    try:
        process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
