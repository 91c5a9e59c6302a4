"""From a checkpoint, of a running job too, to two lanes of the decode tab: its base, and what was made of it."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbdiff_engine import NBDiffError, bundled_models
from playground.race.lanes import guarded_warm_up
from playground.race.run_spec import LaneSpec
from playground.server.following import outcome
from playground.server.loaded_models import LoadedModels
from playground.server.loading_frames import Loaded, Refused
from playground.server.worker import Frame, QueueFullError, RunPart, Worker
from training.errors import RunError
from training.jobs import Jobs, TrainingJob
from training.recipe.recipe import Recipe

FINAL = "final"
_THRESHOLD = 0.9  # where a new checkpoint's own spec has none yet


@dataclass(frozen=True, slots=True)
class Opened:
    """The last frame of an opening. lanes: those of the Decode tab."""

    lanes: tuple[LaneSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "opened", "lanes": [lane.model_dump(exclude_unset=True) for lane in self.lanes]}


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """What the decode tab is to show. serial: tells one opening from the next, of the same checkpoint too."""

    lanes: tuple[LaneSpec, ...]
    serial: str


class Opening:
    """Loads checkpoints on the worker's thread, as the tab of models does: no lane's clock runs meanwhile."""

    def __init__(self, shelf: LoadedModels, worker: Worker, jobs: Jobs):
        self.shelf = shelf
        self.worker = worker
        self.jobs = jobs

    def open(self, identity: Any, which: Any) -> OpenedCheckpoint:
        """Lanes for the decode tab. Raises NBDiffError, one sentence, where the checkpoint cannot be had."""
        job = self.jobs.get(str(identity))
        try:
            run_id = self.worker.submit([RunPart("open", lambda: self._frames(job, which))])
        except QueueFullError as error:
            raise RunError(str(error)) from error
        reply = outcome(self.worker, run_id)
        frames = [each.frame for each in reply.frames]
        opened = next((frame for frame in frames if isinstance(frame, Opened)), None)
        if opened is None:
            refused = next((frame for frame in frames if isinstance(frame, Refused)), None)
            raise RunError(refused.sentence if refused else reply.message)
        return OpenedCheckpoint(opened.lanes, secrets.token_hex(4))

    def _frames(self, job: TrainingJob, which: Any) -> Iterator[Frame]:
        """The frames of loading; a refusal is one of them, or the worker would call it a fault of the server."""
        try:
            adapted = self._load(job, which)
            yield Loaded(adapted)
            guarded_warm_up(self.shelf, adapted)
            yield Opened(tuple(self._lanes(job, adapted)))
        except NBDiffError as error:
            yield Refused(str(error))

    def _load(self, job: TrainingJob, which: Any) -> str:
        """The checkpoint on the shelf; its name there."""
        from training.run.exporting import export, final_of, newest_or  # with torch behind it

        if which == FINAL:
            return self.shelf.load_made_here(final_of(job.run), job.name, f"job {job.name}")
        checkpoint = newest_or(self.jobs.checkpoints(job.id), which)
        folder = export(job.run, checkpoint, job.folder / "opened")
        return self.shelf.load_made_here(folder, f"{job.name}, step {checkpoint.step}", f"job {job.name}")

    def _lanes(self, job: TrainingJob, adapted: str) -> list[LaneSpec]:
        """The base beside the adapted model, one token at a time where the base cannot be had."""
        spec = self.shelf.get(adapted).spec
        base = self._base(job)
        first = LaneSpec(model=base or adapted, strategy="ar")
        if spec is None:
            return [first] if base is None else [first, LaneSpec(model=adapted, strategy="ar")]
        threshold = {"threshold": _THRESHOLD} if spec.threshold is None else {}
        second = LaneSpec(model=adapted, strategy="block_diffusion", block_size=spec.block_size, **threshold)
        return [second] if base is None and not spec.commits_as_ar else [first, second]

    def _base(self, job: TrainingJob) -> str | None:
        """The name on the shelf of what the job started from; None where it cannot be loaded, which costs a lane."""
        try:
            name = Recipe.read(str(job.run / "recipe.yaml")).base
            if name is None:
                return None
            if name in bundled_models():
                return self.shelf.load(name)
            for known in self.shelf.names():
                if self.shelf.source(known) == name:
                    return known
            # The job's own base was allowed when the job was started.
            folder = Path(name)
            return self.shelf.load_made_here(folder, folder.name, "base of a job") if folder.is_dir() else None
        except NBDiffError:
            return None
