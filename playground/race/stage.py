"""The stage: the component that shows a race with the race player, and its value."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

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
    before them. title: the prompt of the run. note: a sentence for the visitor.
    """

    run: str | None = None
    race: Race | None = None
    recorded: bool = False
    lanes: Sequence[LaneTitle] = ()
    keep: int = 0
    title: str = ""
    error: str = ""
    note: str = ""

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
            "tables": player_tables(),
            "serial": secrets.token_hex(4),
        }


def build(value: dict[str, Any], server_functions: Sequence[Callable]) -> gr.HTML:
    """Lay it out in the Blocks being built. server_functions: those that stage.js calls.

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
    return component
