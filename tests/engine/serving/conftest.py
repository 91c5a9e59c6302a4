"""The model and a client of a server over it, for all tests of the server."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

import nbdiff_engine as nb
from tests.engine.serving.servers import nano_app


@pytest.fixture(scope="package")
def nano() -> nb.BlockModel:
    return nb.load("nano", dtype="float32")


@pytest.fixture(scope="package")
def client(nano: nb.BlockModel) -> Iterator[TestClient]:
    with TestClient(nano_app(nano)) as found:
        yield found
