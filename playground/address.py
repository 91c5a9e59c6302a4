"""The check of the server's address, before the model is loaded."""

import socket

from playground.options import StartError


def require_free(host: str, port: int) -> None:
    """Raise StartError if the address cannot be bound now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: not a valid host name
        raise StartError(f"The host {host!r} is not an address of this machine.") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise StartError(
                f"The address {host}:{port} cannot be bound; "
                "if another program uses the port, set another one with --port."
            ) from error
