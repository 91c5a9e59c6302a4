"""The client of a server gives the events, texts and errors of the model in memory, and one sentence for a server that
is down, another program, another version, or ends in the middle."""

import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

import nbdiff_engine as nb
from nbdiff_engine.errors import ServerError
from nbdiff_engine.serving.remote import RemoteServer
from nbdiff_engine.serving.served_model import ServedModel
from tests.engine.answers import without_time
from tests.engine.serving.servers import QUESTION, nano_app, served, stand_in

TURNS = [
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "Lima."},
    {"role": "user", "content": "And of Chile?"},
]
ASKED = [
    (QUESTION, {"strategy": "ar"}),
    (QUESTION, {"strategy": "block_diffusion", "block_size": 8, "threshold": 0.7, "max_new_tokens": 24}),
    (TURNS, {"strategy": "self_speculative", "temperature": 0.8, "seed": 4, "max_new_tokens": 24}),
    ("The capital of Peru is", {"raw": True, "draft_candidates": 2, "strategy": "self_speculative"}),
]


@pytest.fixture(scope="module")
def app(nano) -> FastAPI:
    return nano_app(nano, api_key="secret")


@pytest.fixture(scope="module")
def server(app) -> Iterator[RemoteServer]:
    with served(app) as address:
        server = RemoteServer(f"{address}/v1/", "secret")
        yield server
        server.close()


@pytest.fixture(scope="module")
def model(server) -> ServedModel:
    return server.models()[0]


def test_the_card_has_the_facts_of_the_model(model, nano):
    assert (model.name, model.spec, model.drafts) == ("nano", nano.spec, False)
    assert (model.parameters, model.dtype, model.device) == (nano.parameters, "float32", str(nano.device))
    assert (model.context_length, model.has_chat_template) == (nano.context_length, True)


@pytest.mark.parametrize(("prompt", "settings"), ASKED)
def test_events_and_texts_are_those_of_the_model_in_memory(server, model, nano, prompt, settings):
    settings = {"max_new_tokens": 16, **settings}
    local = nb.prepare(nano, prompt, **settings)
    expected = list(local.events())
    remote = server.prepare(model, prompt, **settings)
    assert remote.plan.settings == local.plan.settings
    assert remote.trace(0, []).prompt_ids == tuple(local.prompts[0])
    found = list(remote.events())
    assert list(map(without_time, found)) == list(map(without_time, expected))
    whole, trace = local.trace(0, expected), remote.trace(0, found)
    assert trace.answer_pieces == whole.answer_pieces
    assert trace.pieces.items() <= whole.pieces.items()
    assert trace.prompt == whole.prompt
    assert remote.text_of(found[-1].token_ids) == local.text_of(expected[-1].token_ids)
    assert remote.pieces_of(found[-1].token_ids) == local.pieces_of(found[-1].token_ids)


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        (" ", {}),
        ("word " * 4000, {}),
        ("half of a pair: \ud800", {}),
        (QUESTION, {"block_size": 0}),
        (QUESTION, {"temperature": float("nan")}),
        (QUESTION, {"strategy": "beam"}),
    ],
)
def test_errors_are_those_of_the_engine(server, model, nano, prompt, settings):
    with pytest.raises(nb.NBDiffError) as expected:
        nb.prepare(nano, prompt, **settings)
    with pytest.raises(nb.NBDiffError) as found:
        server.prepare(model, prompt, **settings)
    assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))


def test_a_remark_about_the_settings_arrives(server, model):
    assert "larger than the" in server.prepare(model, QUESTION, block_size=64).plan.notes[0]


def test_a_check_decodes_nothing_and_an_answer_uses_no_prefix(server, model, app):
    scheduler = app.state.scheduler
    before = scheduler.forwards, scheduler.prefix_bytes
    job = server.prepare(model, QUESTION, max_new_tokens=8, strategy="ar")
    assert (scheduler.forwards, scheduler.prefix_bytes) == before
    first, second = ([event.row for event in job.events()] for _ in range(2))
    assert first == second  # the second has a prefill too
    assert scheduler.prefix_bytes == before[1]


def test_a_closed_iterator_ends_the_answer_at_the_server(server, model, app):
    events = server.prepare(model, QUESTION, max_new_tokens=2000, strategy="ar", ignore_eos=True).events()
    next(events)
    events.close()
    stop = time.monotonic() + 60
    while app.state.scheduler.running:
        assert time.monotonic() < stop
        time.sleep(0.02)


# -- what is no server of this version ---------------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "http://a:b", "http://a:99999"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(nb.SettingError, match="give its address, such as http"):
        RemoteServer(url)


def test_a_wrong_key_and_a_server_that_is_down(server):
    with pytest.raises(ServerError, match=r"needs its API key; give it with --api-key"):
        RemoteServer(server.url, "wrong").models()
    with pytest.raises(ServerError, match="does not answer; start it with"):
        RemoteServer("http://127.0.0.1:9").models()


def test_other_programs_and_versions_are_named(nano):
    card = ServedModel.of(nano, "nano").card(0)
    older = {**card, "nbdiff": {**card["nbdiff"], "trace_version": 99}}
    for each in ({"id": "gpt"}, older, {**card, "nbdiff": {}}):
        with (
            served(stand_in(each)) as address,
            pytest.raises(ServerError, match="is no `nbdiff serve` of this version"),
        ):
            RemoteServer(address).models()


def test_a_stream_that_ends_early_or_has_an_error_keeps_its_events(nano):
    card = ServedModel.of(nano, "nano").card(0)
    choice = {"index": 0, "delta": {"content": "a"}}
    event = {"choices": [choice], "nbdiff": {"event": ["prefill", 0, 0.1, 1, []], "pieces": {}}}
    for last, message in (
        ([], "has ended in the middle of an answer"),
        ([{"error": {"message": "Decoding failed."}}], "Decoding failed"),
        ([{"choices": [choice], "nbdiff": {"event": ["dance"], "pieces": {}}}], "of this version"),
        ([{"choices": []}], "of this version"),
    ):
        with served(stand_in(card, [event, *last])) as address:
            server = RemoteServer(address)
            events = server.prepare(server.models()[0], QUESTION).events()
            assert isinstance(next(events), nb.trace.events.Prefill)
            with pytest.raises(ServerError, match=message):
                next(events)
