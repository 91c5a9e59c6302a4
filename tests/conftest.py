"""Shared fixtures. Everything runs offline, in float32, on tiny models."""

import os

# Set before torch and the hub client are imported: they read these once.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nbdiff_engine as nb
from nbdiff_engine.tasks import sandbox
from tests import ray_clusters
from tests.tiny import FAMILIES, in_part_slow, tiny_model, trained_model

torch.set_num_threads(1)  # more threads make models this small slower

GOLDEN = Path(__file__).parent / "golden"


# Files whose tests run in one worker: the queues of jobs start processes, up to the number of cores, the tests of the
# page share the servers of a worker, and those of smollm2 the weights that the first of them converts.
_TOGETHER = {
    "tests/training/jobs/": "jobs",
    "tests/training/on_ray/": "ray",
    "tests/engine/serving/test_on_ray.py": "ray",
    "tests/engine/model/test_packaged_models.py": "smollm2",
    "tests/playground/test_page_opening.py": "smollm2",
    "tests/playground/test_page.py": "page",
    "tests/playground/test_page_api.py": "page",
    "tests/playground/test_page_tools.py": "page",
    "tests/playground/test_page_look.py": "page",
    "tests/playground/test_page_reload.py": "page",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For pytest-xdist: a file's tests run in one worker, and those of the files that belong together in the same one.

    A scheduler and not its groups: xdist 3.8 does not see them under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((group for start, group in _TOGETHER.items() if file.startswith(start)), file)

    config.option.loadscopereorder = False  # the order is that of pytest_collection_modifyitems
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first, so that no worker is left with them at the end: the page, training, everything else."""

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("browser"):
            return 0
        return 1 if item.nodeid.startswith("tests/training/") else 2

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty NBDIFF_HOME, trainers of full priority, and a long sandbox limit: no file of the user and no slow
    machine changes a result."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBDIFF_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("NBDIFF_JOB_NICE", "0")  # a nice trainer gets no time beside the other tests
        patch.setattr(sandbox, "SECONDS", 100)  # a busy machine may take two seconds to start a process
        yield


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """(host, port) of every address that this process looks up from here on. A connection starts with a lookup."""
    found: list[tuple] = []
    look_up = socket.getaddrinfo

    def recorded(host: object, port: object, *args: object, **kwargs: object) -> list:
        found.append((host, port))
        return look_up(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", recorded)
    return found


@pytest.fixture(scope="session")
def ray_environment() -> Iterator[None]:
    """The variables of all clusters of this session, and of the processes that ask them."""
    with ray_clusters.environment():
        yield


@pytest.fixture(scope="session")
def ray_cluster(ray_environment: None) -> Iterator[ray_clusters.RayCluster]:
    """The cluster of the tests of Ray; they run in one worker."""
    with ray_clusters.running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def golden_model() -> nb.BlockModel:
    """The small trained checkpoint that the reference outputs were made with."""
    return nb.load(GOLDEN / "tiny-block-diffusion", dtype="float32")


@pytest.fixture(scope="session")
def golden_cases() -> list[dict]:
    """Outputs and per-step states of the authors' own decoding code."""
    return json.loads((GOLDEN / "official_outputs.json").read_text())


@pytest.fixture(scope="session", params=in_part_slow([*FAMILIES, "llama fused", "qwen3 fused", "nano"]))
def any_model(request: pytest.FixtureRequest) -> nb.BlockModel:
    """A tiny random model of each family, llama and qwen3 also fused, and the bundled model fused."""
    if request.param == "nano":
        return trained_model()
    family, *fused = request.param.split()
    return tiny_model(family, fused=bool(fused))


@pytest.fixture(scope="session")
def llama() -> nb.BlockModel:
    """A tiny random Llama, for tests that do not depend on the family."""
    return tiny_model("llama")
