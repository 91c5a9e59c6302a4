"""Lanes that a server decodes: the frames of lanes that are decoded here, and one sentence where that cannot be."""

from collections.abc import Iterator
from typing import Any

import pytest

import nbdiff_engine as nb
from nbdiff_engine.errors import ServerError
from nbdiff_engine.serving.remote import RemoteServer
from nbdiff_engine.serving.served_model import ServedModel
from playground.options import ServerOptions, StartError
from playground.page_words import in_page_words
from playground.race.forks import check_fork
from playground.race.frames import race_of
from playground.race.lanes import check
from playground.race.lanes_editor import EditorValue
from playground.race.openings import openings
from playground.race.run_spec import RunSpec
from playground.race.verdict import summary
from playground.server.following import outcome
from playground.server.loaded_models import LoadedModels
from playground.server.remote_models import RemoteModels
from playground.server.worker import Limits, Worker
from tests.engine.serving.servers import QUESTION, nano_app, served, stand_in

LANES = [
    {"model": "nano", "strategy": "ar"},
    {"model": "nano", "strategy": "block_diffusion", "block_size": 8, "logit_bias": ["13=-5"]},
    {"model": "nano", "strategy": "block_diffusion", "block_size": 64},
]
OPTIONS = ServerOptions()


@pytest.fixture(scope="module")
def local() -> LoadedModels:
    loaded = LoadedModels(OPTIONS)
    loaded.add(nb.load("nano", dtype="float32"), "nano", "bundled")
    return loaded


@pytest.fixture(scope="module")
def remote(local: LoadedModels) -> Iterator[RemoteModels]:
    with served(nano_app(local.get("nano"))) as address:
        yield RemoteModels(RemoteServer(address))


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(Limits(lease_seconds=120))
    worker.start()
    yield worker
    worker.close()


def without_times(frame: Any) -> Any:
    """A frame as JSON without its event's time and the figures."""
    data = frame.to_json()
    data.pop("metrics", None)
    if "event" in data:
        data["event"][2] = 0
    return data


def test_the_frames_of_a_race_are_those_of_a_race_here(local, remote, worker) -> None:
    spec = RunSpec.of(prompt=QUESTION, lanes=LANES, max_new_tokens=32)
    here, there = (check(models, spec, OPTIONS) for models in (local, remote))
    assert there.titles == here.titles
    assert "64 is larger than the 32 that nano was trained for" in there.note
    frames = [[without_times(frame) for part in run.parts for frame in part.frames()] for run in (here, there)]
    assert frames[1] == frames[0]
    reply = outcome(worker, worker.submit(there.parts, summary))
    assert (reply.state, reply.message) == ("finished", "")
    race = race_of(reply.frames, QUESTION)
    assert [lane.metrics.output_tokens for lane in race.lanes] == [len(lane.trace.token_ids) for lane in race.lanes]
    assert race.verdict


def test_errors_name_their_lane_as_here(local, remote) -> None:
    lanes = ({**LANES[1], "threshold": 2}, {**LANES[1], "logit_bias": ["999999=1"]})
    for fields in ({"prompt": " "}, {"max_new_tokens": 10**9}, *({"lanes": [LANES[0], lane]} for lane in lanes)):
        spec = RunSpec.of(**{"prompt": QUESTION, "lanes": LANES, **fields})
        caught = []
        for models in (local, remote):
            with pytest.raises(nb.NBDiffError) as error:
                check(models, spec, OPTIONS)
            caught.append((type(error.value), str(error.value), in_page_words(error.value)))
        assert caught[0] == caught[1]
    unknown = RunSpec.of(prompt=QUESTION, lanes=[{**LANES[0], "model": "other"}])
    with pytest.raises(nb.SettingError, match="has no model 'other'; it has nano"):
        check(remote, unknown, OPTIONS)


def test_the_forms_are_those_of_the_model_here(local, remote) -> None:
    [here], [there] = openings(local), openings(remote)
    assert (there.presets, there.about, there.examples) == (here.presets, here.about, here.examples)
    values = [EditorValue.of(models, OPTIONS, here.lanes) for models in (local, remote)]
    assert values[0].models == values[1].models


def test_a_fork_is_refused(remote) -> None:
    with pytest.raises(nb.SettingError, match="A fork needs the model on this machine, and this one is at http"):
        check_fork(remote, {"trace": {}}, OPTIONS)


def test_a_race_whose_server_ends_keeps_what_it_had(local, worker) -> None:
    card = ServedModel.of(local.get("nano"), "nano").card(0)
    event = {"event": ["prefill", 0, 0.1, 1, []], "pieces": {}}
    with served(stand_in(card, [{"choices": [{"index": 0, "delta": {}}], "nbdiff": event}])) as address:
        models = RemoteModels(RemoteServer(address))
        models.warm.add("nano")
        run = check(models, RunSpec.of(prompt=QUESTION, lanes=LANES[:1]), OPTIONS)
        reply = outcome(worker, worker.submit(run.parts))
    assert reply.state == "failed"
    assert reply.message == f"The server at {address} has ended in the middle of an answer."
    [lane] = race_of(reply.frames, QUESTION).lanes
    assert len(lane.trace.events) == 1
    with pytest.raises(ServerError, match="does not answer"):
        check(models, RunSpec.of(prompt=QUESTION, lanes=LANES[:1]), OPTIONS)


def test_a_page_over_a_server_has_no_model_and_no_training_of_its_own() -> None:
    assert not ServerOptions(server="http://127.0.0.1:9").trains
    assert "secret" not in repr(ServerOptions(server="http://127.0.0.1:9", api_key="secret"))
    with pytest.raises(StartError, match="leave out --training"):
        ServerOptions(server="http://127.0.0.1:9", training=True)
