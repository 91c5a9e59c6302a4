"""What is exported: a run, one of its checkpoints, a model, a LoRA or a draft adapter, by a folder or a name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nbdiff_engine.errors import brief
from nbdiff_engine.model.checkpoint_folders import find_checkpoint
from nbdiff_engine.model.draft_spec import is_draft_adapter
from nbdiff_engine.model.weight_files import is_adapter
from training.errors import RunError
from training.recipe.recipe import Recipe
from training.run.checkpointing import Checkpoint, CheckpointStore
from training.run.exporting import final_of, newest_or
from training.run.run_folder import RunFolder

Kind = Literal["model", "lora", "draft"]


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported. name: of the folder or file that is written. folder: the finished model or adapter; None for a
    checkpoint of a run. given: as it was typed."""

    given: str
    name: str
    kind: Kind
    folder: Path | None
    run: Path | None = None
    checkpoint: Checkpoint | None = None

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the run; None for a model or an adapter."""
        return None if self.run is None else Recipe.read(str(self.run / "recipe.yaml"))

    @property
    def about(self) -> str:
        """What it is, in half a sentence without a path of this machine."""
        what = {"model": "model", "lora": "LoRA adapter", "draft": "draft adapter"}[self.kind]
        if self.checkpoint is not None:
            return f"the {what} of step {self.checkpoint.step} of the run {self.run.name}"
        if self.run is not None:
            return f"the finished {what} of the run {self.run.name}"
        return f"the {what} {self.name}"


def find_source(given: str, step: int | None = None) -> Source:
    """The source that a name means. Of a run it is the checkpoint of `step`; without a step the finished model, or the
    newest checkpoint of a run that is not finished.

    Raises RunError for a step that the run does not have or that no run was given for, and CheckpointError for a name
    that nothing has.
    """
    path = Path(given).expanduser()
    run = RunFolder(path)
    if not run.holds_a_run:
        if step is not None:
            raise RunError(f"--step {step} chooses a checkpoint of a run, but {brief(given)} is none; leave it out.")
        folder = find_checkpoint(given)
        kind: Kind = "model"
        if is_adapter(folder):
            kind = "draft" if is_draft_adapter(folder) else "lora"
        name = given.rsplit("@", 1)[0].rsplit("/", 1)[-1] if not path.exists() else path.resolve().stem
        return Source(given, name or folder.name, kind, folder)
    recipe = Recipe.read(str(run.recipe_file))
    kind = "draft" if recipe.drafts else "lora" if recipe.lora is not None else "model"
    name = path.resolve().name
    if step is None:
        try:
            return Source(given, name, kind, final_of(path), path)
        except RunError:
            pass  # not finished: its newest checkpoint
    checkpoints = CheckpointStore(run.checkpoints, 1).all()
    newest = checkpoints[-1].step if step is None and checkpoints else step
    found = newest_or(checkpoints, newest)
    return Source(given, f"{name}-{found.folder.name}", kind, None, path, found)
