"""A server that ends its answers before it stops, so that each caller is told."""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

PATIENCE = 5.0  # seconds in which running answers may end after SIGINT or SIGTERM
_LAST = 5  # further seconds for the forward that runs and for what the callers still receive


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers run for a while, then end those that are left with an error."""
        end = asyncio.get_running_loop().call_later(PATIENCE, self.config.app.state.scheduler.stop)
        await super().shutdown(sockets)
        end.cancel()


def run_server(app: FastAPI, listening: socket.socket) -> None:
    """Serve the app of `make_app` at a socket until SIGINT or SIGTERM."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=int(PATIENCE) + _LAST)
    _Server(config).run([listening])
