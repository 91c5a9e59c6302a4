"""A run as code: it is run, and gives the answers of the run."""

import json
import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import nbdiff_engine as nb
from nbdiff_engine.serving.remote import RemoteServer
from playground.race.as_code import as_client, as_curl, as_python
from playground.race.run_spec import RunSpec
from playground.server.remote_models import RemoteModels
from tests.engine.serving.servers import nano_app, served

PROMPT = 'What\'s the "capital" of $(Peru)?\n`Say` it.'
LANES = [
    {"model": "nano", "strategy": "ar"},
    {"model": "nano", "strategy": "block_diffusion", "block_size": 16, "threshold": 0.9, "logit_bias": ["5=1"]},
    {"model": "nano", "strategy": "ar", "seed": 5, "on": False},
]


@pytest.fixture
def spec() -> RunSpec:
    return RunSpec.of(prompt=PROMPT, lanes=LANES, max_new_tokens=12, ignore_eos=True)


def test_the_python_code_gives_the_answers_of_the_run(spec: RunSpec, capsys: pytest.CaptureFixture) -> None:
    exec(compile(as_python(spec), "run.py", "exec"), {})
    model = nb.load("nano")
    printed = capsys.readouterr().out
    for lane in spec.running:
        out = nb.generate(model, PROMPT, max_new_tokens=12, ignore_eos=True, **lane.settings())
        assert f"{out.metrics.decode_forwards}\n{out.text}" in printed


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_the_code_for_a_server_gives_the_answers_of_the_run(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nb.load("nano")
    conversation = [*TURNS, {"role": "user", "content": PROMPT}]
    monkeypatch.setenv("NBDIFF_API_KEY", "secret")
    with served(nano_app(model, api_key="secret")) as address:
        models = RemoteModels(RemoteServer(address, "secret"))
        for fields, prompt in (({}, PROMPT), ({"raw": True}, PROMPT), ({"history": TURNS}, conversation)):
            spec = RunSpec.of(prompt=PROMPT, lanes=LANES, max_new_tokens=12, ignore_eos=True, **fields)
            code = as_client(models, spec)
            assert "secret" not in code
            exec(compile(code, "run.py", "exec"), {})
            printed = capsys.readouterr().out
            for lane in spec.running:
                settings = {"max_new_tokens": 12, "ignore_eos": True, "raw": spec.raw, **lane.settings()}
                assert f"12\n{nb.generate(model, prompt, **settings).text}\n\n" in printed
        with pytest.raises(nb.SettingError, match="has no model 'other'"):
            as_client(models, RunSpec.of(prompt=PROMPT, lanes=[{**LANES[0], "model": "other"}]))


def test_earlier_turns_are_part_of_the_code() -> None:
    spec = RunSpec.of(prompt="And?", lanes=LANES[:1], history=TURNS)
    whole = [*TURNS, {"role": "user", "content": "And?"}]
    found: dict = {}
    exec(as_python(spec).split("for name")[0], found)
    assert found["prompt"] == whole
    sent = json.loads(next(each for each in shlex.split(as_curl(spec), comments=True) if each.startswith('{"data"')))
    assert (sent["data"][0], sent["data"][-1]) == ("", whole)


def test_the_shell_gives_curl_the_whole_request(spec: RunSpec, tmp_path: Path) -> None:
    sh = shutil.which("sh")
    fake = tmp_path / "curl"
    fake.write_text('#!/bin/sh\nfor each; do printf \'%s\\0\' "$each"; done >> "$CALLS"\necho \'{"event_id":"e 1"}\'\n')
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    calls = tmp_path / "calls"
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run([sh, "-c", as_curl(spec)], check=True, env={"PATH": path, "CALLS": str(calls)}, cwd=tmp_path)
    arguments = calls.read_text().split("\0")
    bodies = [json.loads(each)["data"] for each in arguments if each.startswith('{"data"')]
    assert [body[:6] for body in bodies] == [
        [PROMPT, "nano", "ar", 12, False, True],
        [PROMPT, "nano", "block_diffusion", 12, False, True],
    ]
    assert bodies[1][6:] == [{"block_size": 16, "threshold": 0.9, "logit_bias": ["5=1"]}, None]
    assert sum(each.endswith("/generate/e 1") for each in arguments) == 2
    assert shlex.split(as_curl(spec), comments=True)
