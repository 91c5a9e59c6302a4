"""What a run that loads a model reports. It is a run, so that no lane's clock runs while a model is read."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model is there now. name: the one that it has from now on."""

    name: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "loaded", "name": self.name}


@dataclass(frozen=True, slots=True)
class Refused:
    """It could not be loaded; the sentence says why. The worker would report an exception as a fault of the server."""

    sentence: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": "refused", "sentence": self.sentence}
