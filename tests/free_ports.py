"""Ports of this machine that nothing uses."""

import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Different ports. Another process may take one before the caller binds it."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in found]


def free_port() -> int:
    return free_ports(1)[0]
