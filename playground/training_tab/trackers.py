"""Ticks for the experiment trackers that many people use; the setting `saving.trackers` takes others by name."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.event_options import QUIET, Updates
from playground.training_tab.asked import form_fields
from playground.training_tab.fields import to_yaml
from playground.training_tab.words import refused

TRACKERS = {"trackio": "trackio", "TensorBoard": "tensorboard"}  # label: name in accelerate


class TrackerTicks:
    """The ticks and the setting show the same. `build` lays them out in the Blocks being built."""

    def build(self) -> None:
        """Lay out the ticks."""
        self.ticks = gr.CheckboxGroup(list(TRACKERS), label="Log the run to these too", elem_id="job-trackers")

    def wire(self, setting: Any, said: gr.HTML) -> Any:
        """setting: the field of saving.trackers. said: shows an error. Returns the event of a tick."""
        self._setting, self._said = setting, said
        ticked = self.ticks.input(self.ticked, [self.ticks, setting], [self.ticks, setting, said], **QUIET)
        setting.change(lambda given: _ticks(names_in(given)), setting, self.ticks, **QUIET)
        return ticked

    def ticked(self, ticks: Any, given: Any) -> Updates:
        """Put the ticked trackers into the setting; refuse those that are not installed."""
        wanted = [name for label, name in TRACKERS.items() if isinstance(ticks, list) and label in ticks]
        others = [name for name in names_in(given) if name not in TRACKERS.values()]
        said = ""
        for name in list(wanted):
            try:
                require_trackers([name])
            except NBDiffError as error:
                wanted.remove(name)
                said = refused(error)
        names = [*wanted, *others]
        return {self.ticks: _ticks(names), self._setting: to_yaml(names), self._said: said}


def require_trackers(names: Sequence[str]) -> None:
    """Raise RecipeError, one sentence, for a tracker that is unknown or not installed."""
    if names:
        from training.run.trackers import check_trackers  # imports accelerate, which is slow

        check_trackers(names)


def names_in(given: Any) -> list[str]:
    """The trackers in the field's text; none if it cannot be read."""
    field = next(each for each in form_fields() if each.name == "saving.trackers")
    try:
        read = field.read(given)
    except NBDiffError:
        return []
    return [each for each in read if isinstance(each, str)] if isinstance(read, list | tuple) else []


def _ticks(names: Sequence[str]) -> list[str]:
    return [label for label, name in TRACKERS.items() if name in names]
