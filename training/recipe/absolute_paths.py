"""A recipe whose files are named by absolute paths, for a run that starts in another folder."""

from pathlib import Path

from nbdiff_engine.model.checkpoint_folders import bundled_models
from training.data.data_settings import CORPUS, SELF
from training.data.source_names import with_sources
from training.recipe.recipe import Recipe


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The same recipe; its base, its data and its prompts are absolute paths where they are files or folders."""
    data = recipe.data
    if data.source is not None and data.source not in (CORPUS, SELF):
        data = data.model_copy(update={"source": with_sources(data.source, _absolute)})
    if data.self_data.prompts is not None:
        prompts = _absolute(data.self_data.prompts)
        data = data.model_copy(update={"self_data": data.self_data.model_copy(update={"prompts": prompts})})
    base = recipe.base
    if base is not None and base not in bundled_models():
        base = _absolute(base)
    return recipe.model_copy(update={"base": base, "data": data})


def _absolute(name: str) -> str:
    """The absolute path of an existing file or folder; else `name`."""
    try:
        path = Path(name).expanduser()
        return str(path.resolve()) if path.exists() else name
    except (OSError, RuntimeError, ValueError):
        return name
