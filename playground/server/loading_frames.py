"""The frames of a run that loads a model. Loading is a run, so that no lane decodes, and is timed, meanwhile."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model was loaded. name: its name on this server."""

    name: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "loaded", "name": self.name}


@dataclass(frozen=True, slots=True)
class Refused:
    """The model could not be loaded; `sentence` says why. An exception would be reported as a fault of the server."""

    sentence: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "refused", "sentence": self.sentence}
