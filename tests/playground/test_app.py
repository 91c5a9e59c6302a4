"""app.py from the command line: its options, its errors, and that it connects to no other machine."""

import ast
import json
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import nbdiff_engine as nb
from nbdiff_engine import Trace
from playground.options import ServerOptions, StartError
from tests import forked
from tests.free_ports import free_port
from tests.playground.serving import PATCHED_APP, PATIENCE, ROOT, Server, run_app, serving


def test_help_names_every_option_with_its_default_and_does_not_wait_for_torch() -> None:
    result = run_app("--help", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    imported = {line.rsplit("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "playground.options" in imported
    assert imported.isdisjoint({"torch", "transformers", "gradio"})
    for text in ("--host", "127.0.0.1", "--port", "7860", "nano", "--max-new-tokens", "--model-root", "NBDIFF_LOGIN"):
        assert text in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "99999"], "The port is 99999; it must be from 1 to 65535."),
        (["--port", "soon"], "invalid int value: 'soon'"),
        (["--nosuch"], "unrecognized arguments: --nosuch"),
        (["--host", "0.0.0.0"], "set NBDIFF_LOGIN=name:password"),
        (["--host", "example.org"], "set NBDIFF_LOGIN=name:password"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0; it must be at least 1."),
        (["--wall-seconds", "nan"], "--wall-seconds is nan; it must be a positive number"),
        (["--trace-mb", "-1"], "--trace-mb is -1; it must be a positive number of megabytes."),
        (["--model-root", "/no/such/folder"], "--model-root is /no/such/folder, which is no folder."),
        (["--server", "http://a", "--model", "nano"], "the models are at http://a; leave out --model"),
        (["--api-key", "secret"], "--api-key is for --server; give both, or none."),
    ],
)
def test_a_bad_option_gives_one_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    assert_refused(run_app(*arguments), sentence)


def test_an_unknown_model_gives_one_sentence_and_exit_code_2() -> None:
    refused = forked.run_module("app", "--model", "nosuch", "--port", str(free_port()))
    assert_refused(refused, "No model 'nosuch'")


def test_a_used_port_gives_one_sentence_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(run_app("--port", str(port)), f"The address 127.0.0.1:{port} cannot be bound")


def assert_refused(result, sentence: str) -> None:
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_only_loopback_needs_no_login(host: str) -> None:
    assert ServerOptions(host=host).is_local


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "localhost.example.org", ""])
def test_any_other_host_needs_a_login(host: str) -> None:
    with pytest.raises(StartError, match="NBDIFF_LOGIN"):
        ServerOptions(host=host)
    options = ServerOptions(host=host, login="ada:secret")
    assert options.auth == ("ada", "secret")
    assert "secret" not in repr(options)


@pytest.mark.slow
def test_a_space_needs_no_login(tmp_path: Path) -> None:
    assert ServerOptions(host="0.0.0.0", space=True).auth is None
    assert not ServerOptions(host="0.0.0.0", space=True).is_local
    with serving(tmp_path, SPACE_ID="someone/some-space") as server:
        assert b"NBDiff" in server.get()
        assert "is on http" in server.output.read_text()


def test_the_readme_describes_a_space() -> None:
    _, front, _ = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert (metadata["sdk"], metadata["app_file"], metadata["python_version"]) == ("gradio", "app.py", "3.11")
    assert metadata["sdk_version"].startswith("6.")
    assert (ROOT / metadata["app_file"]).exists()
    assert (ROOT / "requirements.txt").exists()


def test_training_is_on_for_this_machine_only_unless_a_login_is_set() -> None:
    assert ServerOptions().trains
    assert not ServerOptions(training=False).trains
    assert not ServerOptions(host="0.0.0.0", login="ada:secret").trains
    assert ServerOptions(host="0.0.0.0", login="ada:secret", training=True).trains
    assert not ServerOptions(host="0.0.0.0", space=True).trains
    with pytest.raises(StartError, match="needs a login"):
        ServerOptions(host="0.0.0.0", space=True, training=True)


@pytest.mark.parametrize("login", ["ada", "ada:", ":secret", ""])
def test_an_incomplete_login_is_refused(login: str) -> None:
    with pytest.raises(StartError, match="name:password"):
        ServerOptions(login=login)


def test_the_entry_is_short_and_imports_only_the_playground() -> None:
    source = (ROOT / "app.py").read_text()
    assert len(source.splitlines()) < 80
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names == {"playground.command_line"}


WEB = ROOT / "assets" / "web"


@pytest.mark.parametrize("name", sorted(path.name for path in WEB.iterdir() if path.suffix in (".html", ".css")))
def test_nothing_in_a_template_is_evaluated(name: str) -> None:
    """Gradio parses these files with Handlebars, then as a JavaScript template literal."""
    text = (WEB / name).read_text()
    assert not any(sign in text for sign in ("`", "${", "{{", "\\"))


@pytest.mark.parametrize("name", sorted(path.name for path in WEB.glob("*.js")))
def test_no_script_inserts_text_as_html(name: str) -> None:
    source = (WEB / name).read_text()
    assert not any(
        sink in source for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
    )


# -- a server whose connections are watched ----------------------------------------------------------------


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls") / "calls.txt"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, calls: Path) -> Iterator[Server]:
    # Gradio's requests to its own server must not use the proxy of the environment.
    proxy = {"HTTP_PROXY": "http://proxy.invalid:3128", "HTTPS_PROXY": "http://proxy.invalid:3128"}
    folder = tmp_path_factory.mktemp("server")
    with serving(
        *(folder, "--max-prompt-chars", "2000"),
        app=PATCHED_APP,
        new=True,
        NBDIFF_TEST_CALLS=str(calls),
        HF_HUB_OFFLINE="0",
        **proxy,
    ) as server:
        yield server


LANE = {"model": "nano", "strategy": "block_diffusion", "block_size": 32, "threshold": 0.9}


class Visitor:
    """Sends any values to the server, as the page would."""

    def __init__(self, server: Server):
        self.server = server
        self.config = json.loads(server.get("/config"))
        self.stage = self._component("stage")
        self.start = self._event("click", self._component("run"))
        self.open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def run(self, prompt: object = "Hello", new: object = 8, lanes: object = None, **first_lane: object):
        """The stage's value after Run."""
        if lanes is None:
            lanes = [{**LANE, **first_lane}]
        data = [{"run": None}, prompt, {"lanes": lanes}, new, [], None]
        body = {"data": data, "fn_index": self.start, "session_hash": "test"}
        return self._post("/gradio_api/run/predict", body)["data"][0]

    def poll(self, message: object) -> dict:
        body = {"data": message, "component_id": self.stage, "fn_name": "poll", "session_hash": "test"}
        return self._post("/gradio_api/component_server/", body)

    def _component(self, name: str) -> int:
        return next(each["id"] for each in self.config["components"] if each["props"].get("elem_id") == name)

    def _event(self, kind: str, target: int) -> int:
        return next(each["id"] for each in self.config["dependencies"] if [target, kind] in each["targets"])

    def _post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self.server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with self.open(request, timeout=PATIENCE) as reply:
            return json.loads(reply.read())


@pytest.fixture(scope="module")
def visitor(server: Server) -> Visitor:
    return Visitor(server)


def test_a_run_is_decoded_while_a_visitor_polls_it(visitor: Visitor) -> None:
    lanes = [LANE, {"model": "nano-ar", "strategy": "ar"}, {**LANE, "on": False}]
    run = visitor.run("What is the capital of Germany?", lanes=lanes)["run"]
    frames, cursor, state = [], 0, "queued"
    end = time.monotonic() + PATIENCE
    while state in ("queued", "running"):
        assert time.monotonic() < end
        reply = visitor.poll({"run": run, "viewer": "test", "cursor": cursor})
        frames, cursor, state = frames + reply["frames"], reply["cursor"], reply["state"]
        time.sleep(0.05)
    assert state == "finished"
    assert [frame["text"] != "" for frame in frames if frame["kind"] == "done"] == [True, True]
    assert frames[-1]["kind"] == "summary"
    assert [frame["header"]["model"] for frame in frames if frame["kind"] == "open"] == ["nano", "nano-ar"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": None}, "Prompt: None is not allowed"),
        ({"prompt": "x" * 2_000_000}, "The prompt is 2,000,000 characters long; this server takes at most 2,000."),
        ({"prompt": "ß" * 1990}, "has a context of 1024"),
        ({"new": 0}, "Max new tokens: 0 is not allowed; it must be at least 1."),
        ({"new": 10**6}, "this server allows at most 512"),
        ({"new": "<b>many</b>"}, "Max new tokens: "),
        ({"new": None}, "Max new tokens"),
        ({"new": [1, 2]}, "Max new tokens: "),
        ({"threshold": 0}, "Lane 1, Threshold: 0 is not allowed; it must be above 0 and at most 1."),
        ({"threshold": 1.01}, "Lane 1, Threshold: 1.01 is not allowed"),
        ({"threshold": "9" * 10_000}, "Lane 1, Threshold: inf is not allowed"),
        ({"block_size": -3}, "Lane 1, Block size: -3 is not allowed; it must be at least 1."),
        ({"block_size": 2.5}, "Lane 1, Block size: 2.5 is not allowed"),
        ({"seed": -1}, "Lane 1, Seed: -1 is not allowed"),
        ({"seed": {"a": 1}}, "Lane 1, Seed: "),
        ({"unmasking": "magic"}, "Lane 1, Unmasking policy: 'magic' is not allowed; choose one of "),
        ({"model": "nosuch"}, "No model 'nosuch' is loaded; there are nano, nano-ar."),
        ({"model": "../../etc"}, "No model"),
        ({"lanes": []}, "No lane is switched on"),
        ({"lanes": [{**LANE, "on": False}]}, "No lane is switched on"),
        ({"lanes": [LANE] * 7}, "7 lanes are requested; this server allows at most 6."),
        ({"lanes": "<script>"}, "Lanes: '<script>' is not allowed"),
        ({"lanes": [{"model": "nano-ar", "strategy": "block_diffusion"}]}, "nano-ar is an autoregressive checkpoint"),
    ],
)
def test_a_wrong_request_gets_one_sentence(visitor: Visitor, fields: dict, sentence: str) -> None:
    value = visitor.run(**fields)
    assert sentence in value["error"]
    assert value["run"] is None
    assert len(value["error"]) < 300


def test_a_block_beyond_training_is_decoded_with_a_note(visitor: Visitor) -> None:
    value = visitor.run(block_size=64)
    assert value["run"]
    assert "trained for blocks of 32" in value["note"]


@pytest.mark.parametrize(
    "message",
    [
        None,
        "run",
        [1, 2, 3],
        {},
        {"run": "nosuch", "viewer": "v", "cursor": 0},
        {"run": "nosuch", "viewer": "v", "cursor": "0"},
        {"run": 7, "viewer": "v", "cursor": -1},
        {"run": "r" * 10_000, "viewer": "v", "cursor": 0},
        {"run": "nosuch", "viewer": "v", "cursor": 10**400},
        {"run": "nosuch", "viewer": "v", "cursor": 0, "more": {"a": "b"}},
    ],
)
def test_a_hostile_poll_gets_a_plain_answer(visitor: Visitor, message: object) -> None:
    assert visitor.poll(message)["state"] == "unknown"


@pytest.fixture(scope="module")
def client(server: Server):
    gradio_client = pytest.importorskip("gradio_client")
    return gradio_client.Client(server.url, verbose=False)


def test_an_api_call_returns_an_answer_and_its_trace(client) -> None:
    assert client.predict(api_name="/models") == ["nano", "nano-ar"]
    settings = {"block_size": 16, "threshold": 0.9}
    out = client.predict(
        "What is the capital of Germany?", "", "block_diffusion", 24, settings=settings, api_name="/generate"
    )
    assert "Berl" in out["text"]
    assert out["metrics"]["tokens_per_forward"] > 1
    trace = Trace.from_json(out["trace"])
    assert trace.settings["block_size"] == 16
    assert len(trace.token_ids) == out["metrics"]["output_tokens"]
    fixed = client.predict("Hello", "nano-ar", "ar", 12, ignore_eos=True, api_name="/generate")
    assert fixed["metrics"]["output_tokens"] == 12


def test_an_api_call_streams_its_text_and_takes_a_conversation(client) -> None:
    said = ["What is the capital of Peru?", "Lima.", "What is the capital of Germany?"]
    messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), said)]
    job = client.submit(model="nano", strategy="ar", max_new_tokens=16, messages=messages, api_name="/generate")
    *partial, last = job.outputs() if job.result() else ()
    assert partial
    assert all(last["text"].startswith(each["text"]) and each["trace"] is None for each in partial)
    prompt_ids = Trace.from_json(last["trace"]).prompt_ids
    assert all(word in nb.load("nano").tokenizer.decode(prompt_ids) for word in said)


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ({"messages": []}, "messages must be a list whose last item is"),
        ({"messages": "Hi"}, "messages must be a list whose last item is"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages must be a list whose last item is"),
        ({"messages": [{"role": "user", "content": 5}]}, "prompt is 5"),
        ({"messages": [{"role": "nobody", "content": "Hi"}, {"role": "user", "content": "Hi"}]}, "'nobody'"),
        ({"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}, "Both prompt and messages are given"),
        ({"messages": [{"role": "user", "content": "Hi"}], "raw": True}, "raw uses no chat template"),
    ],
)
def test_a_wrong_conversation_gets_a_sentence(client, messages: dict, sentence: str) -> None:
    with pytest.raises(Exception, match=re.escape(sentence)):
        client.predict(**messages, api_name="/generate")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("", "nano", "ar", 8), "The prompt is empty"),
        (("Hi", "nosuch", "ar", 8), "No model 'nosuch' is loaded"),
        (("Hi", "nano", "magic", 8), "strategy"),
        (("Hi", "nano", "ar", 10**6), "this server allows at most 512"),
    ],
)
def test_a_wrong_api_call_raises_the_same_sentences(client, arguments: tuple, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        client.predict(*arguments, api_name="/generate")


def test_frame_endpoints_are_private(client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) <= {"/generate", "/models", "/sweep"}
    assert {"/generate", "/models"} <= set(named)


def test_no_file_of_the_repository_is_served(server: Server) -> None:
    for path in ("app.py", "assets/web/stage.js"):
        with pytest.raises(urllib.error.HTTPError, match=r"40[34]"):
            server.get(f"/gradio_api/file={ROOT / path}")


def test_the_server_has_connected_to_no_other_machine(visitor: Visitor, server: Server, calls: Path) -> None:
    """Late in this module: the server has served its page, decoded, and refused requests."""
    assert server.get()
    assert not calls.exists(), calls.read_text()
    assert "Traceback" not in server.output.read_text()


def test_sigint_ends_the_server_without_a_traceback(server: Server) -> None:
    """Stops the server of this module."""
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=PATIENCE) == 0
    assert "Traceback" not in server.output.read_text()


def test_a_connection_is_recorded_and_refused(tmp_path: Path) -> None:
    from tests.playground import patched_app

    kept = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
    try:
        patched_app.watch_connections(tmp_path / "calls.txt")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("192.0.2.1", 80), timeout=1)
    finally:
        socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = kept
    assert "192.0.2.1" in (tmp_path / "calls.txt").read_text()
