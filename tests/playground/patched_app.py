"""app.py with its circumstances changed, for tests that need a slow model or want to know whom the server calls.

NBDIFF_TEST_SLEEP=0.05       seconds that every forward takes longer
NBDIFF_TEST_CALLS=path       a file that gets a line for every connection or look-up that leaves this machine
"""

import ipaddress
import os
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def watch_connections(record: Path) -> None:
    """Write down and refuse whatever would leave this machine."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def is_here(host: object) -> bool:
        text = host.decode() if isinstance(host, bytes) else host
        if text in (None, "", "localhost"):
            return True
        try:
            return ipaddress.ip_address(text).is_loopback
        except ValueError:
            return False

    def refuse(what: str) -> None:
        with record.open("a") as file:
            file.write(what + "\n")
        raise ConnectionRefusedError(what)

    def watched_connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_here(address[0]):
            refuse(f"connect {address}")
        return connect(self, address)

    def watched_look_up(host: object, *args: object, **kwargs: object) -> list:
        if not is_here(host):
            refuse(f"look up {host!r}")
        return look_up(host, *args, **kwargs)

    socket.socket.connect = watched_connect
    socket.socket.connect_ex = lambda self, address: watched_connect(self, address) or 0
    socket.getaddrinfo = watched_look_up


def slow_down(seconds: float) -> None:
    """Let every forward take longer."""
    from nbdiff_engine.model.block_model import Session

    run = Session.run

    def slow_run(self: Session, passes: object) -> object:
        time.sleep(seconds)
        return run(self, passes)

    Session.run = slow_run


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    if record := os.environ.get("NBDIFF_TEST_CALLS"):
        watch_connections(Path(record))

    import app

    if pause := float(os.environ.get("NBDIFF_TEST_SLEEP", "0")):
        slow_down(pause)
    app.main()
