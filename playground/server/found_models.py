"""The models that are on this machine and may be used here: bundled, packaged, converted, cached, trained, in folders.

A page sends the id of a model, which the server has made; the server looks the id up in its own list.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbdiff_engine import NBDiffError, SettingError, bundled_models
from nbdiff_engine.errors import brief
from nbdiff_engine.model.checkpoint_folders import bundled_adapters
from nbdiff_engine.model.gguf_files import conversions
from nbdiff_engine.model.hub_checkpoints import HubName, cached_checkpoints
from nbdiff_engine.model.outline import Outline, outline
from nbdiff_engine.model.packaged_models import PACKAGED_MODELS
from nbdiff_engine.model.weight_files import ADAPTER_CONFIG
from playground.options import ServerOptions
from playground.server.coming_model import can_be_loaded
from training.jobs import Jobs

JOB = "job:"  # begins the id of a job's finished model
_DEEPEST = 3  # folders below a root
_MOST_FOLDERS, _MOST_FOUND = 3000, 200  # of one root


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that can be loaded or trained from.

    id: its name in requests; a training job's base is given by the same id. place: where it was found, in words.
    source: its folder, file or hub id, as the loader and a training run read it.
    """

    id: str
    name: str
    place: str
    source: Path | str
    outline: Outline

    @property
    def can_be_base(self) -> bool:
        """Whether a training job can start from it."""
        return not (self.outline.drafts or self.outline.problem)


class FoundModels:
    """Lists the models anew at each call, because jobs and folders change."""

    def __init__(self, options: ServerOptions, jobs: Jobs | None):
        self.options = options
        self.jobs = jobs

    def models(self) -> list[FoundModel]:
        """All models: bundled ones first, then the others by place. A source is listed once."""
        found: dict[str, FoundModel] = {}
        for each in self._all():
            found.setdefault(str(each.source), each)
        return list(found.values())

    def get(self, id_: object) -> FoundModel:
        """The model of an id. Raises SettingError if it is not there, or not any more."""
        for each in self.models():
            if each.id == id_:
                return each
        raise SettingError(f"There is no model {brief(id_)} on this server any more; reload the page.")

    def _all(self) -> Iterator[FoundModel]:
        for name, folder in bundled_models().items():
            yield _found(name, name, "bundled", folder)
        for name, model in PACKAGED_MODELS.items():
            if model.gguf is not None:
                of_file = Outline(model.parameters, model.gguf.stat().st_size)
                yield FoundModel(name, name, f"package {model.package}", model.gguf, of_file)
        for name, folder in bundled_adapters().items():
            if can_be_loaded(name):
                yield _found(name, name, "bundled", folder)
        yield from self._of_jobs()
        for root in self.options.model_roots:
            for place in _checkpoints_in(root):
                yield _found(str(place), place.name, _where(place, root), place)
        # What is in this user's caches is for the person at this machine, and for others only if the hub is allowed.
        if self.options.is_local or self.options.hub:
            for name, place in cached_checkpoints().items():
                if (hub_name := HubName.of(name)) is not None:
                    yield _found(name, name, "hub cache", place if hub_name.file else name, place)
            for file, folder in conversions().items():
                yield _found(f"gguf:{folder.name}", file.stem, "converted GGUF file", file, folder)

    def _of_jobs(self) -> Iterator[FoundModel]:
        for job in self.jobs.list() if self.jobs is not None else ():
            final = job.run / "final"
            if final.is_dir():
                yield _found(f"{JOB}{job.id}", job.name, "finished job", final)


def _found(id_: str, name: str, place: str, source: Path | str, folder: Path | None = None) -> FoundModel:
    """folder: where the files are, if `source` is not their folder. A damaged checkpoint is listed with the reason."""
    try:
        of_folder = outline(Path(source) if folder is None else folder)
    except NBDiffError as error:
        of_folder = Outline(0, 0, problem=str(error))
    return FoundModel(id_, name, place, source, of_folder or Outline(0, 0, problem="It is not complete."))


def _where(place: Path, root: Path) -> str:
    """The place of a model below an allowed folder, in words: many models have the same name."""
    folder, root = place.parent, root.resolve()
    # The root itself may be a model, and a file may be a link to another place.
    if folder == root or not folder.is_relative_to(root):
        return "allowed folder"
    return f"allowed folder, in {folder.relative_to(root)}"


def _checkpoints_in(root: Path) -> Iterator[Path]:
    """Folders and GGUF files inside a root, at most _DEEPEST folders down. A checkpoint's own folders are left out."""
    waiting, seen, count = [(root, 0)], 0, 0
    while waiting and seen < _MOST_FOLDERS and count < _MOST_FOUND:
        folder, depth = waiting.pop(0)
        seen += 1
        if _is_checkpoint(folder):
            count += 1
            yield folder.resolve()
            continue
        inside = _sorted(folder, lambda path: not path.name.startswith("."))
        files = [path for path in inside if path.suffix.lower() == ".gguf" and path.is_file()]
        count += len(files)
        yield from (path.resolve() for path in files)
        if depth < _DEEPEST:
            waiting += [(path, depth + 1) for path in inside if path.is_dir() and path.resolve().is_relative_to(root)]


def _is_checkpoint(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        return False
    return any(folder.glob("*.safetensors"))


def _sorted(folder: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if wanted(path))
    except OSError:  # a folder that may not be read
        return []
