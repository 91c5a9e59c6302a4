"""The page's own HTML, CSS and JavaScript, from assets/web, and the Gradio component they make up."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from playground.server import replay_file


def read(name: str) -> str:
    """The text of a file in assets/web."""
    return replay_file.read(name)


def sources() -> dict[str, str]:
    """What the page makes an offline replay file of: {"page", "css", "html", "js"}."""
    return replay_file.sources()


def stage(value: dict[str, Any], server_functions: Sequence[Callable]) -> gr.HTML:
    """The component that shows the lanes.

    Its template mentions no value, so Gradio renders it once and leaves the nodes that stage.js adds alone; and
    what a model wrote never passes through a template, which would be parsed as HTML and as JavaScript.
    """
    component = gr.HTML(
        value=value,
        html_template=read("stage.html"),
        css_template=replay_file.styles(),
        js_on_load=replay_file.script("stage.js"),
        server_functions=list(server_functions),
        apply_default_css=False,
        elem_id="stage",
    )
    # What the page needs to say goodbye with a beacon: it outlives the tab, which the component's own calls do not.
    component.props["component_id"] = component._id
    return component
