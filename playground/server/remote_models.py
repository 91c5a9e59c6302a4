"""The models of a running `nbdiff serve`, as the Decode tab uses those that are loaded here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbdiff_engine import SettingError
from nbdiff_engine.errors import brief
from nbdiff_engine.serving.remote import RemoteJob, RemoteServer
from nbdiff_engine.serving.served_model import ServedModel


class RemoteModels:
    """The models that the server had when it was asked, once. Thread-safe."""

    coming = None  # none is loaded while the page is open

    def __init__(self, server: RemoteServer):
        """Raises ServerError for a server that does not answer, needs another key, or is another program."""
        self.server = server
        self.warm: set[str] = set()
        self._models = {each.name: each for each in server.models()}

    @property
    def why_no_forks(self) -> str:
        return f"A fork needs the model on this machine, and this one is at {self.server.url}."

    def names(self) -> list[str]:
        return list(self._models)

    def get(self, name: str) -> ServedModel:
        """What the server says of a model. Raises SettingError if it has no such model."""
        if name not in self._models:
            raise SettingError(f"{self.server} has no model {brief(name)}; it has {', '.join(self._models)}.")
        return self._models[name]

    def prepare(self, name: str, prompt: Any, *, raw: bool = False, **settings: Any) -> RemoteJob:
        """Let the server check a request. Raises NBDiffError."""
        return self.server.prepare(self.get(name), prompt, raw=raw, **settings)

    @contextmanager
    def using(self, name: str) -> Iterator[ServedModel]:
        """The model while it decodes: nothing is to be kept here."""
        yield self.get(name)
