"""What a server refuses: by name, in the shape of OpenAI's API, and never by ignoring it."""

import pytest
from fastapi.testclient import TestClient

from nbdiff_engine.errors import NBDiffError
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
    ({"model": "gpt-4"}, 404, "This server has the model 'nano'.", "model"),
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


def test_an_error_about_a_setting_has_its_parts(client):
    refused = client.post(CHAT, json={**BODY, "stop_token_ids": [1, -1]}).json()
    assert refused["nbdiff"] == {"field": ["stop_token_ids"], "value": "", "rule": "has -1; a token id is at least 0"}
    assert "nbdiff" not in client.post(CHAT, json={**BODY, "messages": []}).json()


def test_what_is_no_request_is_refused(client):
    for content in (b"{", b"[]", b'"text"'):
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
