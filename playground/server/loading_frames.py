"""The frames of a run that loads a model. Loading is a run, so that no lane is timed meanwhile."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Loading:
    """The weights are being read. The worker stops a run at a frame, so this one also ends a load that was stopped."""

    def to_json(self) -> dict[str, Any]:
        return {"kind": "loading"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model was loaded. name: its name on this server."""

    name: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "loaded", "name": self.name}


@dataclass(frozen=True, slots=True)
class Refused:
    """The model could not be loaded; `sentence` has the reason. An exception would be reported as a server error."""

    sentence: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "refused", "sentence": self.sentence}
