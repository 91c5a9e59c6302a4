"""The page's own HTML, CSS and JavaScript, from assets/web, and the Gradio component they make up."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "web"


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def stage(value: dict[str, Any], server_functions: Sequence[Callable]) -> gr.HTML:
    """The component that shows the lanes.

    Its template mentions no value, so Gradio renders it once and leaves the nodes that stage.js adds alone; and
    what a model wrote never passes through a template, which would be parsed as HTML and as JavaScript.
    """
    component = gr.HTML(
        value=value,
        html_template=read("stage.html"),
        css_template=read("stage.css"),
        js_on_load=read("lane.js") + read("stage.js"),
        server_functions=list(server_functions),
        apply_default_css=False,
        elem_id="stage",
    )
    # What the page needs to say goodbye with a beacon: it outlives the tab, which the component's own calls do not.
    component.props["component_id"] = component._id
    return component
