"""The figures below the stage: tokens over time, tokens per forward, and how sure the model was of each position."""

from typing import Any

import gradio as gr

from playground.race import race_figures


def build_figures(race: dict[str, Any] | None) -> tuple[list[gr.Plot], gr.Dropdown]:
    """Lay them out in the Blocks being built; the last one is of the lane that the dropdown names."""
    names = [lane["name"] for lane in race["lanes"]] if race else []
    chosen = next((name for name in names if name.startswith("Block")), names[0] if names else None)
    drawn = figures_of(race, chosen)
    with gr.Accordion("Figures", open=True, elem_id="figures"):
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown("### Output tokens over time")
                over_time = gr.Plot(drawn[0], show_label=False, container=False)
            with gr.Column(min_width=320):
                gr.Markdown("### Tokens fixed by each forward: filled by denoising, hollow by a commit")
                per_step = gr.Plot(drawn[1], show_label=False, container=False)
        gr.Markdown("### How sure the model was of each position, forward by forward")
        lane = gr.Dropdown(names, value=chosen, label="Lane", min_width=200, elem_id="map-lane")
        confidence = gr.Plot(drawn[2], show_label=False, container=False)
    return [over_time, per_step, confidence], lane


def figures_of(race: dict[str, Any] | None, chosen: str | None) -> list[Any]:
    """The three figures of a race; None where there is nothing to draw."""
    lanes = [lane for lane in (race or {}).get("lanes", []) if lane["trace"]["events"]]
    if not lanes:
        return [None, None, None]
    of = next((lane for lane in lanes if lane["name"] == chosen), lanes[0])
    return [
        race_figures.tokens_over_time(lanes),
        race_figures.unmasked_per_step(lanes),
        race_figures.confidence_map(of),
    ]
