"""The playground in its own process on a free port, as users start it."""

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
from pathlib import Path

from tests.free_ports import free_port

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "app.py"
PATCHED_APP = Path(__file__).with_name("patched_app.py")
PATIENCE = 120.0  # seconds until a test fails; the machine may be busy
STARTS = 3  # another process may take the port before the server binds it

# Connects to the server without the proxy of the machine.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    process: subprocess.Popen
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
    """Run app.py with arguments for which it exits at once."""
    return subprocess.run(
        [sys.executable, str(APP), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@contextmanager
def serving(
    folder: Path, *arguments: str, app: Path = APP, as_users: bool = False, **environment: str
) -> Iterator[Server]:
    """A server that is ready for requests; it is stopped at the end. Its output is in `folder`/server.log.

    It opens on nano if the arguments name neither a model nor a server of models, because smollm2 would cost each
    server 20 CPU-seconds. as_users: it opens on what a user sees.
    """
    if not {"--model", "--server"}.intersection(arguments) and not as_users:
        arguments = ("--model", "nano", *arguments)
    for _ in range(STARTS):
        server = _start(folder / "server.log", app, arguments, environment)
        try:
            if _answers(server):
                yield server
                return
        finally:
            _end(server.process)
    raise AssertionError(server.output.read_text())


def _start(output: Path, app: Path, arguments: Sequence[str], environment: dict[str, str]) -> Server:
    port = free_port()
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(app), "--port", str(port), *arguments],
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            # A background job of a shell ignores SIGINT, and its children inherit that. The server must receive SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
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


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
