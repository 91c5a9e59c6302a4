"""The component in which a visitor sets the lanes of the next run."""

import secrets
from collections.abc import Sequence
from typing import Any

import gradio as gr

from playground.options import Options
from playground.race.lanes import strategies
from playground.race.run_spec import LaneSpec
from playground.server.loaded_models import Shelf
from playground.server.web_files import read

POLICIES = (
    {"name": "confidence", "title": "Confidence threshold", "field": "threshold", "label": "Threshold"},
    {"name": "factor", "title": "Confidence factor", "field": "factor", "label": "Factor"},
    {"name": "margin", "title": "Top-2 margin", "field": "margin", "label": "Margin"},
    {"name": "entropy_bound", "title": "Entropy bound", "field": "entropy_bound", "label": "Bound (nats)"},
    {"name": "fixed_steps", "title": "Fixed steps", "field": "steps_per_block", "label": "Steps per block"},
    {"name": "top_k", "title": "Most confident k", "field": "tokens_per_step", "label": "Tokens per step"},
    {"name": "entropy", "title": "Least entropy k", "field": "tokens_per_step", "label": "Tokens per step"},
)


def value(shelf: Shelf, options: Options, lanes: Sequence[LaneSpec]) -> dict[str, Any]:
    """The editor's value. `serial` tells the page that it came from the server, not from its own typing."""
    return {
        "lanes": [lane.model_dump(mode="json", exclude_none=True) for lane in lanes],
        "models": [{"name": name, "strategies": strategies(shelf.get(name))} for name in shelf.names()],
        "policies": list(POLICIES),
        "most": options.max_lanes,
        "serial": secrets.token_hex(4),
    }


def build(shelf: Shelf, options: Options, lanes: Sequence[LaneSpec]) -> gr.HTML:
    """Lay out the editor in the Blocks being built."""
    return gr.HTML(
        value=value(shelf, options, lanes),
        html_template=read("lanes_editor.html"),
        css_template=read("lanes_editor.css"),
        js_on_load=read("lanes_editor.js"),
        apply_default_css=False,
        elem_id="lanes",
    )


def lanes_of(shown: Any) -> Any:
    """The lanes in the editor's value as the page sent it, unchecked; RunSpec says what is wrong with them."""
    return shown.get("lanes") if isinstance(shown, dict) else None


def refreshed(shelf: Shelf, options: Options, shown: Any) -> Any:
    """The editor with the same lanes and the models that are loaded now."""
    lanes = lanes_of(shown)
    if not isinstance(lanes, list):
        return gr.skip()
    return {**value(shelf, options, ()), "lanes": lanes}
