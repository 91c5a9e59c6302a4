"""app.py with changes for tests that control the forwards, record the connections or receive the uploads of the server.

NBDIFF_TEST_GATE=path        while this folder exists, each forward waits for a file in it, and deletes it
NBDIFF_TEST_CALLS=path       a file with a line for each connection or name look-up to another machine
NBDIFF_TEST_HUB=address      the hub; a forked process has imported its client, which reads HF_ENDPOINT at that time
"""

import ipaddress
import os
import socket
import time
from pathlib import Path


def watch_connections(record: Path) -> None:
    """Record and refuse each connection to another machine."""
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


def hold_forwards(gate: Path) -> None:
    """While the folder `gate` exists, make each forward wait for a file in it, and delete that file."""
    from nbdiff_engine.model.block_model import Session

    run = Session.run

    def permitted() -> bool:
        try:
            permit = next(gate.iterdir(), None)
        except FileNotFoundError:  # it is open
            return True
        if permit is None:
            return False
        permit.unlink(missing_ok=True)
        return True

    def held_run(self: Session, passes: object) -> object:
        while not permitted():
            time.sleep(0.005)
        return run(self, passes)

    Session.run = held_run


if __name__ == "__main__":
    if record := os.environ.get("NBDIFF_TEST_CALLS"):
        watch_connections(Path(record))

    import app

    if hub := os.environ.get("NBDIFF_TEST_HUB"):
        from huggingface_hub import constants

        constants.ENDPOINT, constants.HF_HUB_OFFLINE = hub, False
    if gate := os.environ.get("NBDIFF_TEST_GATE"):
        hold_forwards(Path(gate))
    app.main()
