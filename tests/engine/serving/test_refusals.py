"""What a server refuses: by name, in the shape of OpenAI's API, and never by ignoring it."""

import json

import pytest
from fastapi.testclient import TestClient

from nbdiff_engine.errors import NBDiffError
from nbdiff_engine.serving import body_limit
from nbdiff_engine.serving.scheduler import SchedulerLimits
from nbdiff_engine.serving.serve_command import is_loopback, listen, serve_command
from tests.engine.serving.servers import QUESTION, nano_app

CHAT = "/v1/chat/completions"
BODY = {"model": "nano", "messages": [{"role": "user", "content": QUESTION}]}

REFUSED = [
    ({"response_format": {"type": "json_object"}}, 400, "'response_format' is not supported", "response_format"),
    ({"tool_choice": "required"}, 400, "tool_choice is 'required'; this server cannot force a call", "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, 400, "cannot force a call", "tool_choice"),
    ({"max_new_tokens": 5}, 400, "'max_new_tokens' is not supported", "max_new_tokens"),
    (
        {"stream_options": {"include_obfuscation": True}, "stream": True},
        400,
        "is not supported",
        "stream_options.include_obfuscation",
    ),
    ({"temperature": 1e9}, 400, "temperature is 1e+09; it must be 0 (greedy) or from 0.001 to 100", "temperature"),
    ({"temperature": "warm"}, 400, "temperature", "temperature"),
    ({"strategy": "beam"}, 400, "strategy is 'beam'; choose one of ar, block_diffusion, self_speculative", "strategy"),
    ({"block_size": 0}, 400, "block_size is 0; it must be", "block_size"),
    ({"logit_bias": {"word": 1}}, 400, "logit_bias has a key that is no token id", "logit_bias"),
    ({"n": 99}, 400, "n is 99; it must be at most 16", "n"),
    ({"max_tokens": 0}, 400, "max_tokens is 0; it must be at least 1", "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "differ; give one of them", None),
    ({"top_logprobs": 2}, 400, "top_logprobs needs logprobs=true", None),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options is for stream=true", None),
    ({"stream_mode": "denoise"}, 400, "stream_mode='denoise' is for stream=true", None),
    ({"messages": []}, 400, "messages", "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "parts of type 'text' only", None),
    ({"messages": [{"role": "user", "content": "word " * 4000}]}, 400, "tokens long", None),
    ({"messages": [{"role": "user", "content": "word " * 40_000}]}, 400, "is 200,000 characters long", None),
    ({"model": "gpt-4"}, 404, "There is no model 'gpt-4' here; this server has 'nano'.", "model"),
    ({"max_tokens": "8"}, 400, "max_tokens is '8'; it must be a whole number", "max_tokens"),
    ({"n": True}, 400, "n is True; it must be a whole number", "n"),
    ({"stream": "yes"}, 400, "stream is 'yes'; it must be true or false", "stream"),
    ({"stop": ""}, 400, "stop is ''; a stop string has at least one character", "stop"),
]


@pytest.mark.parametrize(("fields", "status", "message", "param"), REFUSED, ids=lambda each: str(each)[:30])
def test_a_request_is_refused_in_one_sentence(client, fields, status, message, param):
    response = client.post(CHAT, json={**BODY, **fields})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert "\n" not in error["message"]


def test_a_field_that_is_null_is_not_given(client):
    nulls = dict.fromkeys(("n", "stream", "stream_options", "stream_mode", "logprobs", "prefix_cache", "seed", "stop"))
    assert client.post(CHAT, json={**BODY, **nulls, "max_tokens": 2}).status_code == 200
    assert client.post(CHAT, json={**BODY, "messages": None}).json()["error"]["message"] == "'messages' is missing."


@pytest.mark.parametrize("prompt", [5, {"a": 1}, [1, "a"], ["a", [9]], [True], [["5"]], [[1], 2]])
def test_a_prompt_has_one_of_four_forms(client, prompt):
    refused = client.post("/v1/completions", json={"model": "nano", "prompt": prompt})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["message"].endswith("it must be text, a list of token ids, or a list of either.")
    assert error["param"] == "prompt"


def test_more_prompts_than_may_wait_are_refused_for_good(nano):
    with TestClient(nano_app(nano, limits=SchedulerLimits(queue=2))) as client:
        refused = client.post("/v1/completions", json={"model": "nano", "prompt": ["a"] * 3})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "prompt is a list of 3; give at most 2 at once."


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_of_another_type_is_named(client, kind):
    body = json.dumps(BODY).encode()
    refused = client.post(CHAT, content=body, headers={} if kind is None else {"content-type": kind})
    assert refused.status_code == 415
    given = "has no Content-Type" if kind is None else f"has the Content-Type '{kind}'"
    assert refused.json()["error"]["message"] == f"The request {given}; send application/json."


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_not_read(client, monkeypatch, declared):
    monkeypatch.setattr(body_limit, "MOST_BYTES", 1000)
    body = json.dumps({**BODY, "user": "x" * 2000}).encode()
    content = body if declared else iter([body[:900], body[900:]])
    refused = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert refused.status_code == 413
    assert "is larger than 32 MB, the most that this server reads" in refused.json()["error"]["message"]


def test_an_error_about_a_setting_has_its_parts(client):
    refused = client.post(CHAT, json={**BODY, "stop_token_ids": [1, -1]}).json()
    assert refused["nbdiff"] == {"field": ["stop_token_ids"], "value": "", "rule": "has -1; a token id is at least 0"}
    assert "nbdiff" not in client.post(CHAT, json={**BODY, "messages": []}).json()


def test_what_is_no_request_is_refused(client):
    for content in (b"{", b"[]", b'"text"', b'{"model": "\xff"}'):
        response = client.post(CHAT, content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert "body of the request" in response.json()["error"]["message"]
    for response in (client.get("/v1/nothing"), client.get(CHAT)):
        assert response.status_code in (404, 405)
        assert response.json()["error"]["type"] == "invalid_request_error"
    missing = client.post(CHAT, json={"model": "nano"})
    assert missing.json()["error"]["message"] == "'messages' is missing."


def test_a_key_is_needed_where_one_is_set(nano):
    with TestClient(nano_app(nano, api_key="secret")) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}):
            for path in ("/v1/models", "/metrics"):
                refused = client.get(path, headers=headers)
                assert refused.status_code == 401
                assert refused.json()["error"]["code"] == "invalid_api_key"
            assert client.post(CHAT, json=BODY, headers=headers).status_code == 401
        assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_options_that_do_not_apply_are_refused_before_a_model_is_loaded():
    for option, value in (("replicas", "4"), ("replica_cpus", 2.0), ("replica_gpus", 0.0), ("ray_address", "auto")):
        with pytest.raises(NBDiffError, match=f"--{option.replace('_', '-')} is for a server on Ray; add --ray"):
            serve_command("no such model", **{option: value})
    with pytest.raises(NBDiffError, match="--served-name is empty"):
        serve_command("no such model", served_name="")


def test_an_address_that_others_reach_needs_a_key():
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [False] * 4
    with pytest.raises(NBDiffError, match=r"Others can reach 0\.0\.0\.0; set NBDIFF_API_KEY to a key"):
        serve_command("no such model", host="0.0.0.0")


def test_a_port_in_use_is_refused_before_a_model_is_loaded():
    with listen("127.0.0.1", 0) as used:
        used.listen()
        port = used.getsockname()[1]
        with pytest.raises(NBDiffError, match=f"Port {port} at 127.0.0.1 cannot be used .*; choose another"):
            serve_command("no such model", port=port)
