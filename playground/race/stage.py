"""The component that shows the lanes of a race: the race player on the Gradio page."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from playground.server.replay_file import script, styles
from playground.server.web_files import read


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
