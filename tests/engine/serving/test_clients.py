"""Clients that people use, against a server at a free port; many connections, half of which are cut."""

import asyncio
import json
import random
import subprocess
import time

import httpx
import openai
import pytest

import nbdiff_engine as nb
from nbdiff_engine.serving.scheduler import SchedulerLimits
from tests.engine.serving.servers import QUESTION, nano_app, served

USER = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def address(nano):
    with served(nano_app(nano, api_key="secret")) as found:
        yield found


@pytest.fixture(scope="module")
def expected(nano) -> str:
    return nb.generate(nano, QUESTION, max_new_tokens=24).text


def test_the_openai_client_gets_answers_streams_and_errors(address, expected, nano):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0)
    assert [each.id for each in client.models.list()] == ["nano"]
    whole = client.chat.completions.create(model="nano", messages=USER, max_tokens=24)
    assert whole.choices[0].message.content == expected
    stream = client.chat.completions.create(
        model="nano", messages=USER, max_tokens=24, stream=True, stream_options={"include_usage": True}
    )
    parts = list(stream)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == expected
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    denoise = client.chat.completions.create(
        model="nano", messages=USER, max_tokens=24, stream=True, extra_body={"stream_mode": "denoise", "block_size": 8}
    )
    kinds = [part.nbdiff["event"][0] for part in denoise if "event" in part.nbdiff]
    assert kinds[0] == "prefill"
    assert "denoise" in kinds
    assert kinds[-1] == "finish"
    older = client.completions.create(model="nano", prompt="The capital of Peru is", max_tokens=8)
    assert older.choices[0].text == nb.generate(nano, "The capital of Peru is", raw=True, max_new_tokens=8).text
    with pytest.raises(openai.BadRequestError, match="'service_tier' is not supported"):
        client.chat.completions.create(model="nano", messages=USER, service_tier="flex")
    with pytest.raises(openai.NotFoundError, match="this server has 'nano'"):
        client.chat.completions.create(model="gpt-4", messages=USER)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()


def test_litellm_gets_answers_streams_usage_and_errors(address, expected, nano, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would download prices when it is imported
    litellm = pytest.importorskip("litellm")
    asked = {"model": "openai/nano", "api_base": f"{address}/v1", "api_key": "secret", "messages": USER}
    asked |= {"max_tokens": 24, "max_retries": 0}
    whole = litellm.completion(**asked)
    assert whole.choices[0].message.content == expected
    output = nb.generate(nano, QUESTION, max_new_tokens=24)
    assert whole.usage.completion_tokens == len(output.token_ids)
    parts = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == expected
    assert parts[-1].usage.completion_tokens == len(output.token_ids)
    drafted = litellm.completion(**asked, extra_body={"strategy": "self_speculative"})
    assert drafted.choices[0].message.content == nb.generate(nano, QUESTION, strategy="ar", max_new_tokens=24).text
    with pytest.raises(litellm.BadRequestError, match="block_size is 0; it must be"):
        litellm.completion(**asked, extra_body={"block_size": 0})
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**{**asked, "api_key": "wrong"})


def test_curl_gets_a_stream(address, expected):
    body = json.dumps({"model": "nano", "messages": USER, "max_tokens": 24, "stream": True})
    command = ["curl", "-sN", f"{address}/v1/chat/completions", "-H", "Authorization: Bearer secret"]
    command += ["-H", "Content-Type: application/json", "-d", body]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    *data, done = [line.removeprefix("data: ") for line in printed.split("\n\n") if line]
    assert done == "[DONE]"
    assert "".join(json.loads(each)["choices"][0]["delta"].get("content", "") for each in data) == expected


@pytest.mark.slow
def test_lm_evaluation_harness_asks_the_server(address, nano, monkeypatch):
    from lm_eval.api.instance import Instance
    from lm_eval.models.api_models import JsonChatStr
    from lm_eval.models.openai_completions import LocalChatCompletion

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    harness = LocalChatCompletion(base_url=f"{address}/v1/chat/completions", model="nano", num_concurrent=2)
    questions = [QUESTION, "What is 3 plus 4?"]
    asked = [
        Instance("generate_until", {}, (JsonChatStr(json.dumps([{"role": "user", "content": each}])), own), number)
        for number, each in enumerate(questions)
        for own in [{"until": ["\n\n"], "max_gen_toks": 24}]
    ]
    assert harness.generate_until(asked) == [
        nb.generate(nano, each, max_new_tokens=24, stop="\n\n").text for each in questions
    ]


@pytest.mark.slow
def test_200_connections_of_which_half_are_cut_leak_nothing_and_mix_nothing(nano):
    app = nano_app(nano, limits=SchedulerLimits(queue=300, rows=8))
    scheduler = app.state.scheduler
    questions = [f"What is {number} plus {number + 1}?" for number in range(8)]
    expected = [nb.generate(nano, each, max_new_tokens=24).text for each in questions]

    async def one(client: httpx.AsyncClient, number: int) -> None:
        body = {"model": "nano", "messages": [{"role": "user", "content": questions[number % 8]}], "max_tokens": 24}
        cut = number % 2 == 1
        after = random.Random(number).randrange(3)
        text, got = "", 0
        stream = client.stream("POST", "/v1/chat/completions", json=body | {"stream": True, "ignore_eos": cut})
        async with stream as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                got += 1
                if cut and got > after:
                    return  # leaves the connection in the middle of its answer
                text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        assert text == expected[number % 8]

    async def all_of_them(address: str) -> None:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=300) as client:
            await asyncio.gather(*(one(client, number) for number in range(200)))

    with served(app) as address:
        asyncio.run(all_of_them(address))
        stop = time.monotonic() + 60
        while (scheduler.running or scheduler.waiting) and time.monotonic() < stop:
            time.sleep(0.1)
        assert scheduler.running == scheduler.waiting == scheduler.held_bytes == 0
        assert scheduler.prefix_bytes <= scheduler.limits.prefix_bytes
        figures = httpx.get(f"{address}/metrics").text
    assert 'nbdiff_requests_total{outcome="answered"} 1' in figures  # 100, or more that ended before they were cut
    assert scheduler.prefixes is not None
