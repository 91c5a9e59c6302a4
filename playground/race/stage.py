"""The stage: the component that shows a race with the race player, and its value, to the page and from it."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from playground.page_words import in_page_words
from playground.race.race_file import Race
from playground.server.replay_file import script, styles
from playground.server.tables import player_tables
from playground.server.web_files import read


@dataclass(frozen=True, slots=True)
class LaneTitle:
    """The name of a lane, and its settings in one line."""

    name: str
    about: str


@dataclass(frozen=True, slots=True)
class StageValue:
    """A message to the stage: a run to follow, a race to replay, or an error, which does not change the lanes.

    recorded: whether the race is the bundled one. lanes: of the run. keep: the number of lanes on the stage that stay
    before them. title: the prompt of the run. note: a sentence for the visitor. stays: the message has only that
    sentence, and what is shown stays.
    """

    run: str | None = None
    race: Race | None = None
    recorded: bool = False
    lanes: Sequence[LaneTitle] = ()
    keep: int = 0
    title: str = ""
    error: str = ""
    note: str = ""
    stays: bool = False

    def to_json(self) -> dict[str, Any]:
        """The component's value. `serial` is new each time, so that the page notices an equal message."""
        return {
            "run": self.run,
            "race": None if self.race is None else self.race.to_json(),
            "recorded": self.recorded,
            "lanes": [asdict(lane) for lane in self.lanes],
            "keep": self.keep,
            "title": self.title,
            "error": self.error,
            "note": self.note,
            "stays": self.stays,
            "tables": player_tables(),
            "serial": secrets.token_hex(4),
        }


class Shown(BaseModel):
    """The fields of the stage's value from the page that describe what it shows now."""

    model_config = ConfigDict(extra="ignore")

    run: str | None = Field(default=None, max_length=64)
    keep: int = Field(default=0, ge=0, le=200)
    lanes: list[LaneTitle] = Field(default_factory=list, max_length=200)


def shown_on_stage(value: Any) -> Shown:
    """What the stage shows, from the page's value; empty for an invalid value."""
    try:
        return Shown.model_validate(value)
    except ValidationError:
        return Shown()


def stage_message(**fields: Any) -> dict[str, Any]:
    """The JSON of a StageValue with these fields."""
    return StageValue(**fields).to_json()


def refused(shown: Any, error: Exception) -> dict[str, Any]:
    """The stage without a change, with the sentence of the error. shown: the page's value."""
    stage = shown_on_stage(shown)
    return stage_message(run=stage.run, keep=stage.keep, lanes=stage.lanes, error=in_page_words(error))


def noted(shown: Any, sentence: str) -> dict[str, Any]:
    """The stage without a change, with a sentence for the visitor. shown: the page's value."""
    stage = shown_on_stage(shown)
    return stage_message(run=stage.run, keep=stage.keep, lanes=stage.lanes, note=sentence, stays=True)


def build(value: dict[str, Any], server_functions: Sequence[Callable], why_no_forks: str = "") -> gr.HTML:
    """Lay it out in the Blocks being built. server_functions: those that stage.js calls. why_no_forks: a sentence that
    is shown instead of the controls of a fork.

    The template uses no value, so Gradio renders it once and does not change the nodes that stage.js adds. The text of
    a model never goes through a template, where it would be parsed as HTML and JavaScript.
    """
    component = gr.HTML(
        value=value,
        html_template=read("stage.html"),
        css_template=styles(),
        js_on_load=script("stage.js"),
        server_functions=list(server_functions),
        apply_default_css=False,
        elem_id="stage",
    )
    # When the tab closes, the browser cancels calls of server functions, but not a beacon. stage.js needs this id for
    # its beacon.
    component.props["component_id"] = component._id
    component.props["why_no_forks"] = why_no_forks
    return component
