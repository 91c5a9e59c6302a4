"""Where the server listens, looked at before anything slow is done."""

import socket

from playground.options import StartError


def require_free(host: str, port: int) -> None:
    """Raise StartError if the address cannot be bound now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no host name can be spelt so
        raise StartError(f"The host {host!r} is no address of this machine.") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise StartError(
                f"The address {host}:{port} cannot be bound; if another program has the port, choose one with --port."
            ) from error
