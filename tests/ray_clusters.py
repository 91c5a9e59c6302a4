"""A Ray cluster of two CPUs on this machine, in processes of its own."""

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.free_ports import free_ports

_TRIES = 4


@dataclass(frozen=True)
class RayCluster:
    address: str  # host:port of the head
    jobs: str  # the URL of its job server, if it has one
    head: int  # pid of the process that started all others

    def end(self) -> None:
        """Kill the head and all of its processes."""
        try:
            head = psutil.Process(self.head)
            found = [head, *head.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for each in found:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=30)


@contextmanager
def running(jobs: bool = False) -> Iterator[RayCluster]:
    """A cluster, which ends with the block. jobs: with a job server, which needs ten more processes."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    for attempt in range(_TRIES):
        port, server, grpc, http, metrics, environments = free_ports(6)
        folder = tempfile.mkdtemp(prefix="nbray", dir="/tmp")  # a short path, because sockets lie below it
        options = {
            "--num-cpus": 2,
            "--port": port,
            "--include-dashboard": str(jobs).lower(),
            "--dashboard-port": server,
            "--dashboard-agent-grpc-port": grpc,
            "--dashboard-agent-listen-port": http,
            "--metrics-export-port": metrics,
            "--runtime-env-agent-port": environments,
            "--object-store-memory": 80 * 2**20,
            "--temp-dir": folder,
        }
        words = [str(word) for pair in options.items() for word in pair]
        with Path(folder, "log.txt").open("w", encoding="utf-8") as log:
            head = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        cluster = RayCluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{server}", head.pid)
        try:
            # A node gives up after 15 s without its agent, which a busy machine may need (ray-project/ray, 65983).
            if _has_started(head, Path(folder, "log.txt"), last=attempt == _TRIES - 1):
                yield cluster
                return
        finally:
            cluster.end()
            head.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _has_started(head: subprocess.Popen, log: Path, last: bool) -> bool:
    """Wait until the head runs; False if it ended. last: fail then."""
    while "Ray runtime started" not in (text := log.read_text(encoding="utf-8")):
        if head.poll() is not None:
            assert not last, text
            return False
        time.sleep(0.2)
    return True


@contextmanager
def environment() -> Iterator[None]:
    """Variables of Ray for this process and all that it starts: a secret of this session, and quick workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # Ray's own 15 gets no time beside the other tests
        patch.setenv("RAY_worker_register_timeout_seconds", "300")
        patch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
        patch.setenv("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "120")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
