"""Servers over the bundled model: in this process, and at a free port."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

import nbdiff_engine as nb
from nbdiff_engine.serving.app import make_app
from nbdiff_engine.serving.serve_command import listen

QUESTION = "What is the capital of Peru?"


def nano_app(model: nb.BlockModel, **options) -> FastAPI:
    return make_app(model, "nano", **options)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of a server that runs in a thread."""
    with listen("127.0.0.1", 0) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        server.should_exit = True
        thread.join()
