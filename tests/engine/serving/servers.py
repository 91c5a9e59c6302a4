"""Servers over the bundled model: in this process, and at a free port."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

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


def stand_in(card: dict, chunks: list[dict] = ()) -> FastAPI:
    """A program that lists a model, and streams these chunks whatever it is asked."""
    app = FastAPI()
    app.get("/v1/models")(lambda: {"object": "list", "data": [card]})

    @app.post("/v1/chat/completions/check")
    def check() -> dict:
        settings = nb.DecodeSettings(strategy="ar", block_size=1).model_dump(mode="json")
        head = {"format": "nbdiff-trace", "version": 3, "model": "m", "settings": settings, "mask_token_id": None}
        return {"data": [{**head, "prompt": "a", "prompt_ids": [1], "notes": []}]}

    @app.post("/v1/chat/completions")
    def stream() -> StreamingResponse:
        return StreamingResponse((f"data: {json.dumps(each)}\n\n" for each in chunks), media_type="text/event-stream")

    return app
