"""A model that is loaded while the page is open already: the page opens on a recorded race of it."""

import threading
import time
from collections.abc import Callable

from nbdiff_engine import NBDiffError, SettingError
from nbdiff_engine.model.checkpoint_folders import bundled_adapters
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS

OPENS_ON = "smollm2-drafts"  # if its base is installed and its adapter is part of the project
_PATIENCE = 180.0  # seconds that a request waits for it


def can_be_loaded(name: str = OPENS_ON) -> bool:
    """Whether a bundled draft adapter is here, with the package that brings its base."""
    base = PACKAGED_MODELS.get(name.removesuffix("-drafts"))
    return name in bundled_adapters() and base is not None and base.gguf is not None


class ComingModel:
    """Its name, and how far its loading has come. One thread calls `load`, any number of others the rest."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic):
        self.name = name
        self.problem = ""
        self._clock = clock
        self._began: float | None = None
        self._loaded, self._ended = threading.Event(), threading.Event()

    def load(self, load: Callable[[str], object], warm_up: Callable[[str], object]) -> None:
        """Load it and decode a first answer. A refusal is kept as `problem`; any other exception is raised too."""
        self._began = self._clock()
        try:
            load(self.name)
            self._loaded.set()
            warm_up(self.name)
        except NBDiffError as error:
            self.problem = str(error)
        except Exception:
            self.problem = "the log of the server has the reason."
            raise
        finally:
            self._loaded.set()
            self._ended.set()

    def wait(self, seconds: float = _PATIENCE) -> None:
        """Return when it is loaded. Raises SettingError if it cannot be loaded, or not within this time."""
        if not self._loaded.wait(seconds):
            raise SettingError(f"{self.name} is still being loaded; try again in a minute, or choose another model.")
        if self.problem:
            raise SettingError(f"{self.name} could not be loaded: {self.problem}")

    def state(self) -> dict[str, str] | None:
        """What the page says of it: {"sentence", "problem"}, one of them empty; None when it is ready."""
        if self.problem:
            return {"sentence": "", "problem": f"{self.name} could not be loaded: {self.problem} Choose another model."}
        if self._ended.is_set():
            return None
        step = "decodes a first answer" if self._loaded.is_set() else "is being loaded"
        since = "" if self._began is None else f", {self._clock() - self._began:.0f} s"
        sentence = f"{self.name} {step}{since}. A run waits for it; the recorded race needs no model."
        return {"sentence": sentence, "problem": ""}
