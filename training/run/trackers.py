"""The experiment trackers of a run, which accelerate drives: trackio, tensorboard, wandb and others."""

from collections.abc import Sequence

from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from nbdiff_engine.errors import brief
from training.errors import RecipeError

_PACKAGES = {"comet_ml": "comet-ml"}  # where the name for pip is another one


def check_trackers(names: Sequence[str]) -> None:
    """Raise RecipeError for a tracker that accelerate does not know or that is not installed.

    accelerate itself leaves out trackers that are not installed, without a message.
    """
    known = [each.value for each in LoggerType if each is not LoggerType.ALL]
    installed = {str(each) for each in get_available_trackers()}
    for name in names:
        if name not in known:
            raise RecipeError(f"saving.trackers names {brief(name)}; choose from {', '.join(known)}.")
        if name not in installed:
            raise RecipeError(
                f"saving.trackers names {name}, which is not installed; "
                f"run pip install {_PACKAGES.get(name, name)}, or leave it out."
            )
