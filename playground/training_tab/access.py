"""What a visitor may train from and on: bundled and loaded models, earlier jobs, uploads, and the operator's roots.

The page names jobs and uploads by ids that the server made; a path is taken only inside a root that the operator
allows, whatever a form sends.
"""

import re
import secrets
import shutil
from pathlib import Path
from typing import Any

from nbdiff_engine import SettingError, bundled_models
from nbdiff_engine.errors import brief
from nbdiff_engine.model.hub_checkpoints import HUB_ID
from nbdiff_engine.model.lora_folders import base_of_adapter
from nbdiff_engine.model.weight_files import is_adapter
from playground.options import ServerOptions
from playground.server.loaded_models import LoadedModels
from training.jobs import Jobs

UPLOADS = (".jsonl", ".json", ".parquet", ".csv", ".txt")
OWN_DATA = {"corpus": "The project's corpus", "self": "What the base writes itself"}
_JOB, _UPLOAD = "job:", "upload:"
_LONGEST = 400


class Access:
    """Turns what a form names into what a run reads. Raises SettingError, one sentence."""

    def __init__(self, shelf: LoadedModels, options: ServerOptions, jobs: Jobs):
        self.shelf = shelf
        self.options = options
        self.jobs = jobs

    # -- bases -------------------------------------------------------------------------------------------

    def bases(self) -> list[tuple[str, str]]:
        """What can be chosen as a base, in words and as a form names it."""
        found = [(name, name) for name in bundled_models()]
        for row in self.shelf.facts():
            if row.name not in bundled_models() and not row.name.endswith(("(8bit)", "(4bit)")):
                found.append((f"{row.name} (loaded)", self.shelf.source(row.name)))
        for job in self.jobs.list():
            if (job.run / "final" / "config.json").is_file():
                found.append((f"{job.name} (finished job)", f"{_JOB}{job.id}"))
        return found

    def base(self, asked: Any) -> str | None:
        """The base that a run is to load; None where none was named."""
        text = _line(asked, "base model")
        if not text:
            return None
        if text in bundled_models() or text in (self.shelf.source(name) for name in self.shelf.names()):
            return text
        if text.startswith(_JOB):
            job = self.jobs.get(text.removeprefix(_JOB))
            final = job.run / "final"
            if not (final / "config.json").is_file():
                raise SettingError(f"The job {brief(job.name)} has no finished model yet; choose another base.")
            return str(final)
        folder = self._inside(text)
        if folder is not None and folder.is_dir():
            if is_adapter(folder):  # its base is read too, so that must be allowed as well
                self.base(base_of_adapter(folder, text))
            return str(folder)
        return self._hub(text, f"no bundled model ({', '.join(bundled_models())})")

    # -- data --------------------------------------------------------------------------------------------

    def data(self, asked: Any) -> str | None:
        """The data that a run is to read; None where none was named."""
        text = _line(asked, "data")
        if not text:
            return None
        if text in OWN_DATA:
            return text
        if text.startswith(_UPLOAD):
            path = (self._uploads / text.removeprefix(_UPLOAD)).resolve()
            if not (path.is_relative_to(self._uploads) and path.is_file()):
                raise SettingError("This upload is not here any more; upload the file again.")
            return str(path)
        path = self._inside(text)
        if path is not None:
            return str(path)
        return self._hub(text, f"not {' or '.join(OWN_DATA)}, no upload")

    def upload(self, path: Any) -> tuple[str, str]:
        """Keep an uploaded file: what a form names it by, and its name."""
        given = Path(str(path))
        if given.suffix.lower() not in UPLOADS:
            raise SettingError(f"{brief(given.name)} cannot be read as data; upload one of {', '.join(UPLOADS)}.")
        name = re.sub(r"[^\w.-]", "_", given.stem)[:60].lstrip(".") or "data"
        name += given.suffix.lower()
        token = secrets.token_hex(6)
        folder = self._uploads / token
        folder.mkdir(parents=True)
        shutil.copyfile(given, folder / name)
        return f"{_UPLOAD}{token}/{name}", given.name

    @property
    def _uploads(self) -> Path:
        return self.jobs.home.resolve() / "uploads"

    def named(self, path: str | None) -> str | None:
        """A base or data that a run has read, as a form names it."""
        if path is None or not Path(path).is_absolute():
            return path
        if Path(path).is_relative_to(self._uploads):
            return _UPLOAD + Path(path).relative_to(self._uploads).as_posix()
        owner = next((job for job in self.jobs.list() if Path(path) == job.run / "final"), None)
        return path if owner is None else f"{_JOB}{owner.id}"

    # -- limits ------------------------------------------------------------------------------------------

    def _inside(self, text: str) -> Path | None:
        """A path inside an allowed root; None for any other."""
        for root in self.options.model_roots:
            path = (root / text).resolve()
            if path.is_relative_to(root) and path.exists():
                return path
        return None

    def _hub(self, text: str, otherwise: str) -> str:
        if HUB_ID.fullmatch(text) and not Path(text).exists():
            if self.options.hub:
                return text
            raise SettingError(
                f"{brief(text)} is nothing that is here, and the hub is off; the person who runs this server can "
                "start it with --hub."
            )
        raise SettingError(
            f"{brief(text)} is {otherwise} and nothing inside an allowed folder; the person who runs this server can "
            "allow one with --model-root."
        )


def _line(asked: Any, what: str) -> str:
    text = asked.strip() if isinstance(asked, str) else ""
    if len(text) > _LONGEST or not text.isprintable():
        raise SettingError(f"The {what} is {brief(text)}; give a name or a path on one line.")
    return text
