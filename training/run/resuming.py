"""Whether a recipe can resume the run in a folder, and what changes for the run."""

from contextlib import suppress

from training.errors import RunError
from training.recipe.recipe import Recipe
from training.run.checkpointing import CheckpointStore
from training.run.optimizers import rate_at
from training.run.run_folder import RunFolder, flat, shown_change
from training.run.run_progress import Progress

# Settings that may differ when a run resumes, because they do not affect its losses.
_MAY_DIFFER = ("saving", "about", "threads", "shard")
# These may differ within limits, which are checked one by one.
_LENGTH = ("optimisation.max_steps", "optimisation.epochs")
_BATCH = ("optimisation.rows", "optimisation.accumulation")


def check_folder(folder: RunFolder, recipe: Recipe, resume: bool, processes: int) -> str | None:
    """Raise RunError if the run cannot start, or not resume, in the folder; else the result of `check_resumable`."""
    if resume:
        return check_resumable(folder, recipe, processes)
    folder.check_new()
    return None


def check_resumable(folder: RunFolder, recipe: Recipe, processes: int) -> str | None:
    """What resuming changes for the run, as a sentence for the log; None if nothing does. Writes nothing.

    While `recipe` still has epochs, its length is not checked. Raises RunError if the run cannot be resumed so.
    """
    if not folder.holds_a_run:
        raise RunError(f"There is no run to resume in {folder.path}: it has no recipe.yaml.")
    stored = Recipe.read(str(folder.recipe_file))
    before, now = (flat(each.model_dump(mode="json")) for each in (stored, recipe))
    changed = [
        shown_change(key, before, now)
        for key in sorted(before.keys() | now.keys())
        if key.split(".")[0] not in _MAY_DIFFER and key not in _LENGTH + _BATCH and before.get(key) != now.get(key)
    ]
    if changed:
        raise RunError(
            f"The run in {folder.path} was started with other settings: {'; '.join(changed[:3])}. "
            "Resume it with its own settings, or start a new run."
        )
    progress = _newest_progress(folder)
    batch = _batch_change(folder, stored, recipe, processes, progress)
    length = _length_change(folder, stored, recipe, progress)
    return " ".join(each for each in (batch, length) if each) or None


def _newest_progress(folder: RunFolder) -> Progress:
    """The progress in the newest checkpoint whose state can be read. Its weights are checked later, once."""
    for each in reversed(CheckpointStore(folder.checkpoints, 1).all()):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return Progress.read(each.folder / "state.json")
    return Progress()


def _batch_change(folder: RunFolder, stored: Recipe, recipe: Recipe, processes: int, done: Progress) -> str:
    """Raise RunError if a step would read another number of rows; what changes if it reads them in other parts."""
    steps = recipe.optimisation
    rows = steps.rows * steps.accumulation * processes
    if done.rows_per_step not in (0, rows):
        raise RunError(
            f"The run in {folder.path} read {done.rows_per_step} rows per step, but {steps.rows} rows x "
            f"{steps.accumulation} accumulation x {processes} process(es) would read {rows}; "
            "change optimisation.accumulation or the number of processes, so that the product stays."
        )
    if done.rows_per_step and steps.rows != stored.optimisation.rows:
        return (
            f"a forward reads {steps.rows} rows instead of {stored.optimisation.rows}: the documents and their order "
            "stay, the noise is drawn anew."
        )
    return ""


def _length_change(folder: RunFolder, stored: Recipe, recipe: Recipe, done: Progress) -> str:
    """Raise RunError if the run would be shorter; what a longer one changes."""
    old, new = stored.optimisation, recipe.optimisation
    if new.epochs is not None or new.max_steps == old.max_steps:
        return ""
    if new.max_steps < old.max_steps:
        raise RunError(
            f"The run in {folder.path} has {old.max_steps} steps, and optimisation.max_steps is {new.max_steps} now; "
            "a run can be resumed with more steps, not with fewer."
        )
    step = done.step
    text = (
        f"{new.max_steps} steps instead of {old.max_steps}: warm-up, decay and block growth are those of a run of "
        f"{new.max_steps} steps from here on; step {step + 1} has the learning rate {rate_at(new, step):.3g}"
    )
    if recipe.kind == "adapt":
        text += f" and blocks of {recipe.blocks.over(new.max_steps).at(step)}"
    if step:
        text += f", after {rate_at(old, step - 1):.3g}"
        if recipe.kind == "adapt":
            text += f" and blocks of {stored.blocks.over(old.max_steps).at(step - 1)}"
    return text + "."
