"""From a checkpoint, of a running job too, to two lanes of the decode tab: its base, and what was made of it."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError, bundled_models
from playground.race.lanes import guarded_warm_up
from playground.server.following import outcome
from playground.server.loaded_models import LoadedModels
from playground.server.loading_frames import Loaded, Refused
from playground.server.worker import Frame, QueueFullError, RunPart, Worker
from playground.training_tab.words import say
from training.recipe.recipe import Recipe

FINAL = "final"
_THRESHOLD = 0.9  # where a new checkpoint's own spec has none yet


@dataclass(frozen=True, slots=True)
class Opened:
    """The last frame of an opening. lanes: those of the decode tab."""

    lanes: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "opened", "lanes": self.lanes}


class Opening:
    """Loads checkpoints on the worker's thread, as the tab of models does: no lane's clock runs meanwhile."""

    def __init__(self, shelf: LoadedModels, worker: Worker, jobs: Any):
        self.shelf = shelf
        self.worker = worker
        self.jobs = jobs

    def open(self, identity: Any, which: Any) -> tuple[Any, str]:
        """Lanes for the decode tab; a sentence where the checkpoint cannot be had."""
        try:
            job = self.jobs.get(str(identity))
            run_id = self.worker.submit([RunPart("open", lambda: self._frames(job, which))])
        except (NBDiffError, QueueFullError) as error:
            return gr.skip(), say(str(error), error=True)
        reply = outcome(self.worker, run_id)
        frames = [each.frame for each in reply.frames]
        opened = next((frame for frame in frames if isinstance(frame, Opened)), None)
        if opened is None:
            refused = next((frame for frame in frames if isinstance(frame, Refused)), None)
            return gr.skip(), say(refused.sentence if refused else reply.message, error=True)
        return {"lanes": opened.lanes, "serial": secrets.token_hex(4)}, say("Opened in the tab Decode.")

    def _frames(self, job: Any, which: Any) -> Iterator[Frame]:
        """The frames of loading; a refusal is one of them, or the worker would call it a fault of the server."""
        try:
            adapted = self._load(job, which)
            yield Loaded(adapted)
            guarded_warm_up(self.shelf, adapted)
            yield Opened(self._lanes(job, adapted))
        except NBDiffError as error:
            yield Refused(str(error))

    def _load(self, job: Any, which: Any) -> str:
        """The checkpoint on the shelf; its name there."""
        from training.run.exporting import export, final_of, newest_or  # with torch behind it

        run = Path(job.run)
        if which == FINAL:
            return self.shelf.load_made_here(final_of(run), job.name, f"job {job.name}")
        checkpoint = newest_or(self.jobs.checkpoints(job.id), which)
        folder = export(run, checkpoint, Path(job.folder) / "opened")
        return self.shelf.load_made_here(folder, f"{job.name}, step {checkpoint.step}", f"job {job.name}")

    def _lanes(self, job: Any, adapted: str) -> list[dict[str, Any]]:
        """The base beside the adapted model, one token at a time where the base cannot be had."""
        spec = self.shelf.get(adapted).spec
        base = self._base(job)
        first = {"model": base or adapted, "strategy": "ar"}
        if spec is None:
            return [first] if base is None else [first, {"model": adapted, "strategy": "ar"}]
        if base is None and not spec.commits_as_ar:
            first = None
        second = {"model": adapted, "strategy": "block_diffusion", "block_size": spec.block_size}
        if spec.threshold is None:
            second["threshold"] = _THRESHOLD
        return [each for each in (first, second) if each]

    def _base(self, job: Any) -> str | None:
        """The name on the shelf of what the job started from; None where it cannot be loaded, which costs a lane."""
        path = Path(job.run) / "recipe.yaml"
        try:
            name = Recipe.read(str(path)).base
            if name is None:
                return None
            if name in bundled_models():
                return self.shelf.load(name)
            for known in self.shelf.names():
                if self.shelf.source(known) == name:
                    return known
            # The job's own base was allowed when the job was started.
            return (
                self.shelf.load_made_here(Path(name), Path(name).name, "base of a job") if Path(name).is_dir() else None
            )
        except NBDiffError:
            return None
