"""Open a checkpoint of a job, also of a running one, in the Decode tab: a lane for its base and one for its model."""

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
_THRESHOLD = 0.9  # if the spec of the checkpoint has none


@dataclass(frozen=True, slots=True)
class Opened:
    """The last frame of a run that opens a checkpoint. lanes: for the Decode tab."""

    lanes: tuple[LaneSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "opened", "lanes": [lane.model_dump(exclude_unset=True) for lane in self.lanes]}


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """The lanes for the Decode tab. serial: differs each time, so that Gradio notices the same checkpoint again."""

    lanes: tuple[LaneSpec, ...]
    serial: str


class CheckpointOpener:
    """Loads checkpoints on the worker's thread, as the Models tab does, so that no lane is timed meanwhile."""

    def __init__(self, loaded: LoadedModels, worker: Worker, jobs: Jobs):
        self.loaded = loaded
        self.worker = worker
        self.jobs = jobs

    def open(self, job_id: Any, which: Any) -> OpenedCheckpoint:
        """Load a checkpoint. which: a step or FINAL. Raises NBDiffError, one sentence, if it cannot be loaded."""
        job = self.jobs.get(str(job_id))
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
        """Load a checkpoint and its base. An error becomes a frame, because an exception looks like a server error."""
        try:
            adapted = self._load(job, which)
            yield Loaded(adapted)
            guarded_warm_up(self.loaded, adapted)
            yield Opened(tuple(self._lanes(job, adapted)))
        except NBDiffError as error:
            yield Refused(str(error))

    def _load(self, job: TrainingJob, which: Any) -> str:
        """Load a checkpoint; returns its name on this server."""
        from training.run.exporting import export, final_of, newest_or  # imports torch, which is slow

        if which == FINAL:
            return self.loaded.load_known(final_of(job.run), job.name, f"job {job.name}")
        checkpoint = newest_or(self.jobs.checkpoints(job.id), which)
        folder = export(job.run, checkpoint, job.folder / "opened")
        return self.loaded.load_known(folder, f"{job.name}, step {checkpoint.step}", f"job {job.name}")

    def _lanes(self, job: TrainingJob, adapted: str) -> list[LaneSpec]:
        """A lane for the base and one for the adapted model. Without a base, the adapted model decodes AR."""
        spec = self.loaded.get(adapted).spec
        base = self._base(job)
        first = LaneSpec(model=base or adapted, strategy="ar")
        if spec is None:
            return [first] if base is None else [first, LaneSpec(model=adapted, strategy="ar")]
        threshold = {"threshold": _THRESHOLD} if spec.threshold is None else {}
        second = LaneSpec(model=adapted, strategy="block_diffusion", block_size=spec.block_size, **threshold)
        return [second] if base is None and not spec.commits_as_ar else [first, second]

    def _base(self, job: TrainingJob) -> str | None:
        """Load the base of a job; returns its name on this server, or None if it cannot be loaded."""
        try:
            name = Recipe.read(str(job.run / "recipe.yaml")).base
            if name is None:
                return None
            if name in bundled_models():
                return self.loaded.load(name)
            for known in self.loaded.names():
                if self.loaded.source(known) == name:
                    return known
            # The access rules were checked when the job was started.
            folder = Path(name)
            return self.loaded.load_known(folder, folder.name, "base of a job") if folder.is_dir() else None
        except NBDiffError:
            return None
