"""The routes give the answers of `generate` in the shape of OpenAI's API, whole and as streams."""

import json

import pytest

import nbdiff_engine as nb
from tests.engine.answers import without_time
from tests.engine.serving.servers import QUESTION

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": QUESTION}]
STRATEGIES = [
    {"strategy": "ar"},
    {"strategy": "block_diffusion", "block_size": 8, "threshold": 0.7},
    {"strategy": "self_speculative", "temperature": 0.8, "top_p": 0.9, "seed": 4},
]


def ask(client, **fields) -> dict:
    response = client.post(CHAT, json={"model": "nano", "messages": USER, "max_tokens": 32, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def chunks(client, path: str = CHAT, **fields) -> list[dict]:
    """The chunks of a stream, which must end with [DONE]."""
    asked = {"model": "nano", "max_tokens": 32, "stream": True, **fields}
    response = client.post(path, json=asked if "prompt" in fields else {"messages": USER, **asked})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *data, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(each) for each in data]


@pytest.mark.parametrize("settings", STRATEGIES)
def test_an_answer_and_its_usage_are_those_of_generate(client, nano, settings):
    output = nb.generate(nano, QUESTION, max_new_tokens=32, **settings)
    found = ask(client, **settings)
    choice = found["choices"][0]
    assert choice["message"]["content"] == output.text
    assert choice["finish_reason"] == ("length" if output.finish_reason == "length" else "stop")
    assert found["usage"]["prompt_tokens"] == len(output.trace.prompt_ids)
    assert found["usage"]["completion_tokens"] == len(output.token_ids)
    assert found["usage"]["total_tokens"] == len(output.trace.prompt_ids) + len(output.token_ids)


@pytest.mark.parametrize("settings", STRATEGIES)
def test_the_chunks_of_a_stream_join_to_the_answer(client, nano, settings):
    found = chunks(client, stream_options={"include_usage": True}, **settings)
    *parts, usage = found
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    assert text == nb.generate(nano, QUESTION, max_new_tokens=32, **settings).text
    assert [part["choices"][0]["finish_reason"] is None for part in parts] == [True] * (len(parts) - 1) + [False]
    assert usage["choices"] == []
    assert usage["usage"] == ask(client, **settings)["usage"] | {
        "prompt_tokens_details": usage["usage"]["prompt_tokens_details"]
    }
    assert len({part["id"] for part in found}) == 1


@pytest.mark.parametrize("settings", STRATEGIES)
def test_a_denoise_stream_is_a_whole_trace(client, nano, settings):
    first, *steps = chunks(client, stream_mode="denoise", **settings)
    data = {**first["nbdiff"], "pieces": {}, "bytes": {}, "candidates": [], "events": []}
    for step in steps:
        part = step["nbdiff"]
        data["candidates"] += [[len(data["events"]), *each] for each in part.get("candidates", [])]
        data["events"].append(part["event"])
        data["pieces"] |= part["pieces"]
        data["bytes"] |= part.get("bytes", {})
    trace = nb.Trace.from_json({**data, "answer_pieces": steps[-1]["nbdiff"]["answer_pieces"]})
    expected = nb.generate(nano, QUESTION, max_new_tokens=32, **settings)
    assert list(map(without_time, trace.events)) == list(map(without_time, expected.trace.events))
    assert trace.answer_pieces == expected.trace.answer_pieces
    assert "".join(step["choices"][0]["delta"].get("content", "") for step in steps) == expected.text


def test_several_choices_are_the_rows_of_a_batch(client, nano):
    story, settings = "Tell me a short story about a fox.", {"temperature": 1.5, "seed": 9}
    outputs = nb.generate(nano, [story] * 3, max_new_tokens=32, **settings)
    found = ask(client, messages=[{"role": "user", "content": story}], n=3, **settings)
    assert [each["message"]["content"] for each in found["choices"]] == [each.text for each in outputs]
    assert [each["index"] for each in found["choices"]] == [0, 1, 2]
    assert len({each.text for each in outputs}) > 1


def test_without_a_seed_each_request_is_sampled_anew(client, nano):
    sampled = {"temperature": 2.0, "messages": [{"role": "user", "content": "Tell me a short story about a fox."}]}
    texts = {ask(client, **sampled)["choices"][0]["message"]["content"] for _ in range(4)}
    assert len(texts) > 1
    same = {ask(client, **sampled, seed=3)["choices"][0]["message"]["content"] for _ in range(2)}
    assert len(same) == 1


def test_a_stream_with_usage_has_a_null_in_its_place_before(client):
    *before, last = chunks(client, stream_options={"include_usage": True})
    assert {part["usage"] for part in before} == {None}
    assert last["usage"]["completion_tokens"] > 1


def test_a_stop_string_is_cut_off_whole_and_in_a_stream(client, nano):
    whole = nb.generate(nano, QUESTION, max_new_tokens=32, strategy="ar").text
    stop = whole[6:9]
    expected = whole[: whole.index(stop)]
    found = ask(client, strategy="ar", stop=stop)["choices"][0]
    assert (found["message"]["content"], found["finish_reason"]) == (expected, "stop")
    parts = chunks(client, strategy="ar", stop=[stop])
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == expected


@pytest.mark.parametrize("strategy", ["ar", "self_speculative"])
def test_log_probabilities_end_where_a_stop_string_cuts_the_text(client, nano, strategy):
    output = nb.generate(nano, QUESTION, max_new_tokens=32, strategy=strategy)
    end = len(output.text) // 2
    asked = {"strategy": strategy, "stop": output.text[end:], "logprobs": True}
    found = ask(client, **asked)["choices"][0]
    named = found["logprobs"]["content"]
    assert found["message"]["content"] == output.text[:end]
    # The last token may begin before the stop string and end in it.
    assert "".join(each["token"] for each in named[:-1]).strip() in output.text[:end]
    assert len("".join(each["token"] for each in named).strip()) >= end
    parts = [part["choices"][0] for part in chunks(client, **asked)]
    assert [each for part in parts if part["logprobs"] for each in part["logprobs"]["content"]] == named
    shown = ""
    count = 0
    for part in parts:
        shown += part["delta"].get("content") or ""
        count += len((part["logprobs"] or {"content": []})["content"])
        assert len("".join(each["token"] for each in named[: max(count - 1, 0)]).strip()) <= len(shown)


def test_log_probabilities_are_those_of_generate_whole_and_in_a_stream(client, nano):
    output = nb.generate(nano, QUESTION, max_new_tokens=32, strategy="ar", logprobs=2)
    kept = [logs for token, logs in zip(output.token_ids, output.logprobs) if token not in nano.eos_token_ids]
    whole = ask(client, strategy="ar", logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [each["logprob"] for each in whole] == [logs.logprob for logs in kept]
    assert [[top["logprob"] for top in each["top_logprobs"]] for each in whole] == [
        [p for _, p in logs.top] for logs in kept
    ]
    parts = [part["choices"][0]["logprobs"] for part in chunks(client, strategy="ar", logprobs=True, top_logprobs=2)]
    assert [each for part in parts if part for each in part["content"]] == whole


def test_completions_take_texts_and_token_ids(client, nano):
    prompts = ["The capital of Peru is", "Two and two"]
    expected = [nb.generate(nano, each, raw=True, max_new_tokens=12).text for each in prompts]
    ids = [nb.prepare(nano, each, raw=True).prompts[0] for each in prompts]
    for prompt in (prompts, ids):
        asked = {"model": "nano", "prompt": prompt, "max_tokens": 12, "logprobs": 1}
        found = client.post("/v1/completions", json=asked).json()
        assert [each["text"] for each in found["choices"]] == expected
        for choice in found["choices"]:
            logs = choice["logprobs"]
            assert "".join(logs["tokens"]).strip() == choice["text"].strip()
            assert len(logs["tokens"]) == len(logs["token_logprobs"]) == len(logs["top_logprobs"])
        assert any(expected)
    parts = chunks(client, "/v1/completions", prompt=ids[1], max_tokens=12)
    assert "".join(part["choices"][0]["text"] for part in parts) == expected[1]


def test_text_parts_and_template_arguments_reach_the_template(client, nano):
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    assert ask(client, messages=parts)["choices"] == ask(client)["choices"]
    refused = client.post(CHAT, json={"model": "nano", "messages": USER, "chat_template_kwargs": {"thinking": True}})
    assert refused.status_code == 400
    assert "does not read 'thinking'" in refused.json()["error"]["message"]


def test_the_second_turn_reads_only_what_is_new(client, nano):
    words = "Tell me about the capital of Peru, its history and the people that live there, in a few sentences."
    turns = [{"role": "user", "content": words}]
    first = ask(client, messages=turns, strategy="ar", seed=77)
    turns += [first["choices"][0]["message"], {"role": "user", "content": "And of Chile?"}]
    second = ask(client, messages=turns, strategy="ar")
    usage = second["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["prompt_tokens"]
    plain = [{"role": each["role"], "content": each["content"]} for each in turns]
    expected = nb.generate(nano, plain, strategy="ar", max_new_tokens=32)
    assert second["choices"][0]["message"]["content"] == expected.text


def test_the_other_routes(client):
    assert client.get("/health").json() == {"status": "ok"}
    card = client.get("/v1/models").json()["data"][0]
    assert card["id"] == "nano"
    assert client.get("/v1/models/nano").json() == card
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["components"]["schemas"]["ChatBody"]["properties"]
    assert {"messages", "strategy", "block_size", "unmasking", "threshold", "stream_mode"} <= set(paths)
    ask(client)
    text = client.get("/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['nbdiff_requests_total{outcome="answered"}']) >= 1
    assert float(figures["nbdiff_answer_tokens_total"]) >= 1
    assert float(figures["nbdiff_answers_running"]) == 0
    assert float(figures["nbdiff_cache_bytes"]) == 0
