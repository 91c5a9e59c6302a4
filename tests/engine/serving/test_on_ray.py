"""The server on Ray Serve: the same routes, and no request lost with a replica whose answer had not begun to stream."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

import nbdiff_engine as nb
from nbdiff_engine import ray_cluster as clusters
from nbdiff_engine.errors import NBDiffError
from nbdiff_engine.serving.on_ray import Replicas
from nbdiff_engine.serving.serve_command import serve_command
from tests.engine.serving.servers import QUESTION
from tests.forked import ROOT
from tests.free_ports import free_port

_SECONDS = 400  # the machine may be busy


def replica_processes(head: int) -> list[psutil.Process]:
    """The replicas of the model: Ray names a process after its actor."""
    found = psutil.Process(head).children(recursive=True)
    return [each for each in found if each.cmdline()[:1] and "ServeReplica:nbdiff:Replica" in each.cmdline()[0]]


@pytest.mark.slow
def test_two_replicas_of_which_one_is_killed_under_load_lose_no_request(ray_cluster, nano):
    port = free_port()
    options = [
        "--ray",
        "--ray-address",
        ray_cluster.address,
        "--replicas",
        "2",
        "--port",
        str(port),
        "--dtype",
        "float32",
    ]
    argv = [sys.executable, "-m", "nbdiff_engine", "serve", "nano", *options]
    server = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout.readline() == f"nano on http://127.0.0.1:{port}/v1, 2 replicas on Ray\n"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_SECONDS) as client:
            check_routes(client)
            check_a_killed_replica(
                client, ray_cluster.head, nb.generate(nano, QUESTION, max_new_tokens=200, ignore_eos=True).text
            )
    finally:
        server.terminate()
        server.wait(_SECONDS)
    assert server.returncode == 0


def check_routes(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["nano"]
    assert "/v1/chat/completions" in client.get("/openapi.json").json()["paths"]
    refused = client.post("/v1/chat/completions", json={"model": "nano", "messages": [], "colour": "red"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert client.get("/nowhere").status_code == 404


def check_a_killed_replica(client: httpx.Client, head: int, expected: str) -> None:
    body = {"model": "nano", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 200}
    body["ignore_eos"] = True  # all answers are so long that some run when the replica dies
    begun = threading.Event()

    def whole() -> str:
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    def streamed() -> tuple[str, bool]:
        """The text, and whether it is an answer that ended with its replica."""
        text, lost = "", False
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    begun.set()
                    chunk = json.loads(line.removeprefix("data: "))
                    lost = lost or "error" in chunk
                    text += "" if lost else chunk["choices"][0]["delta"].get("content") or ""
        return text, lost

    with ThreadPoolExecutor(24) as pool:
        wholes = [pool.submit(whole) for _ in range(16)]
        streams = [pool.submit(streamed) for _ in range(8)]
        assert begun.wait(_SECONDS)
        replicas = replica_processes(head)
        assert len(replicas) == 2
        replicas[0].kill()
        wholes += [pool.submit(whole) for _ in range(8)]
        assert {each.result() for each in wholes} == {expected}
        for text, lost in (each.result() for each in streams):
            assert expected.startswith(text) if lost else text == expected


@pytest.mark.parametrize("text", ["0", "2:1", "many", "1:", "-1", "1:2:3"])
def test_a_number_of_replicas_that_cannot_be_is_refused(text):
    if text == "1:":
        assert Replicas.of(text, 1.0, None) == Replicas(1, 1)
        return
    with pytest.raises(NBDiffError, match="give a number from 1, or MIN:MAX such as 1:8"):
        Replicas.of(text, 1.0, None)


def test_replicas_between_two_numbers():
    assert Replicas.of("1:8", 2.0, 1.0) == Replicas(1, 8, 2.0, 1.0)
    assert Replicas.of("3", 1.0, None) == Replicas(3, 3)


def test_what_cannot_be_served_on_ray_is_one_sentence(monkeypatch):
    with pytest.raises(NBDiffError, match="Port 0 cannot be used on Ray"):
        serve_command("nano", ray=True, ray_address="local", port=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NBDiffError, match="Ray is not installed"):
        serve_command("nano", ray=True, ray_address="local")
    monkeypatch.undo()
    monkeypatch.setattr(clusters, "require_ray", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(NBDiffError, match="There is no address of a Ray cluster"):
        clusters.known_address(None)
