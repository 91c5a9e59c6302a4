"""The component that shows the lanes of a race, the race player on the Gradio page, and the value that it takes."""

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
    """What a lane is called, and how it decodes in one line."""

    name: str
    about: str


@dataclass(frozen=True, slots=True)
class StageValue:
    """A message to the stage: a run to follow, a race to replay, or an error, which leaves what is there alone.

    recorded: the race is the bundled one. lanes: of the run; keep: how many lanes of the stage stay before them.
    title: the run's prompt. note: what the visitor should know of the run.
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
        """The component's value. `serial` makes every value a new one: the page must notice an equal message too."""
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
    """Lay it out in the Blocks being built. server_functions: what stage.js calls on the server.

    Its template mentions no value, so Gradio renders it once and leaves the nodes that stage.js adds alone; and
    what a model wrote never passes through a template, which would be parsed as HTML and as JavaScript.
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
    # stage.js needs the id for the beacon that it sends when the tab closes: a beacon outlives the tab, which the
    # component's own calls do not.
    component.props["component_id"] = component._id
    return component
