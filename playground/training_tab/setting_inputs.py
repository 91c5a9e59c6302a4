"""The input components of all settings of a recipe, in tabs."""

from typing import Any

import gradio as gr

from playground.training_tab.asked import form_fields, shown_values
from playground.training_tab.fields import Field, groups
from training.recipe.recipe import Recipe


def setting_inputs(recipe: Recipe) -> list[Any]:
    """Lay them out in the Blocks being built, with a recipe's values. Returns them in the order of `form_fields`."""
    shown = dict(zip((each.name for each in form_fields()), shown_values(recipe)))
    inputs: dict[str, Any] = {}
    with gr.Tabs(overflow_behavior="wrap"):
        for title, members in groups(list(form_fields())).items():
            with gr.Tab(title):
                if title == "New network":
                    gr.Markdown("Only a recipe that trains from scratch uses these settings.")
                with gr.Row(elem_classes="settings"):
                    for each in members:
                        inputs[each.name] = _component(each, shown[each.name])
    return [inputs[each.name] for each in form_fields()]


def _component(each: Field, value: Any) -> Any:
    """The input component of a setting."""
    common = {"label": each.label, "info": each.info, "min_width": 230, "elem_id": f"set-{each.name.replace('.', '-')}"}
    if each.kind == "switch":
        return gr.Checkbox(value=bool(value), **common)
    if each.kind == "choice":
        choices = [("none", ""), *each.choices] if each.empty else list(each.choices)
        return gr.Dropdown(choices, value=value, **common)
    if each.kind == "whole" and not each.empty:
        return gr.Number(value, precision=0, **common)
    # gr.Number would show 0 for an empty field, and send it.
    return gr.Textbox(value or "", max_lines=1, placeholder="none" if each.empty else "", **common)
