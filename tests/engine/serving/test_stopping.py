"""A server that is stopped tells its callers."""

import json
import threading
import time

import httpx
import uvicorn

from nbdiff_engine.serving import stopping
from nbdiff_engine.serving.serve_command import listen
from tests.engine.serving.servers import QUESTION, nano_app

BODY = {
    "model": "nano",
    "messages": [{"role": "user", "content": QUESTION}],
    "strategy": "ar",
    "ignore_eos": True,
    "max_tokens": 900,
    "n": 8,
}


def test_answers_that_run_when_a_server_is_stopped_end_with_an_error(nano, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 0.3)
    with listen("127.0.0.1", 0) as sock:
        sock.listen()  # as the command does: the first request may come before the server has started
        app = nano_app(nano)
        server = stopping._Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=60))
        running = threading.Thread(target=server.run, args=([sock],))
        running.start()
        address = f"http://127.0.0.1:{sock.getsockname()[1]}/v1/chat/completions"
        streamed: list[str] = []
        plain: list[httpx.Response] = []

        def ask_plain() -> None:
            plain.append(httpx.post(address, json=BODY, timeout=60, trust_env=False))

        asking = threading.Thread(target=ask_plain)
        with httpx.stream("POST", address, json=BODY | {"stream": True}, timeout=60, trust_env=False) as stream:
            for line in stream.iter_lines():
                streamed.append(line)
                if len(streamed) == 1:
                    asking.start()
                    end = time.monotonic() + 60
                    while app.state.scheduler.running < 2 * BODY["n"] and time.monotonic() < end:
                        time.sleep(0.01)
                    server.should_exit = True
        asking.join(60)
        running.join(60)
        assert not running.is_alive()
    last = json.loads(next(line for line in reversed(streamed) if line).removeprefix("data: "))
    assert last["error"]["code"] == "server_stopped"
    assert plain[0].status_code == 503
    assert plain[0].json()["error"]["message"] == "This server is being stopped; ask again later."
