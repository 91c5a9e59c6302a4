"""The figures below the stage: tokens over time, tokens of each forward, and a map of the confidence."""

from typing import Any

import gradio as gr

from playground.race import race_figures
from playground.race.race_file import Race


def build_figures(race: Race | None) -> tuple[list[gr.Plot], gr.Dropdown]:
    """Lay them out in the Blocks being built. The dropdown selects the lane of the last figure."""
    names = [lane.name for lane in race.lanes] if race else []
    chosen = first_mapped(race)
    drawn = figures_of(race, chosen)
    with gr.Accordion("Figures", open=True, elem_id="figures"):
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown("### Output tokens over time")
                over_time = gr.Plot(drawn[0], show_label=False, container=False)
            with gr.Column(min_width=320):
                gr.Markdown("### Tokens fixed by each forward (filled: denoise; hollow: commit or verify)")
                per_step = gr.Plot(drawn[1], show_label=False, container=False)
        gr.Markdown("### Confidence at each position in each forward")
        lane = gr.Dropdown(names, value=chosen, label="Lane", min_width=200, elem_id="map-lane")
        confidence = gr.Plot(drawn[2], show_label=False, container=False)
    return [over_time, per_step, confidence], lane


def first_mapped(race: Race | None) -> str | None:
    """The name of the lane that the confidence map shows first: a block-diffusion lane if there is one."""
    lanes = race.lanes if race else ()
    lane = next((lane for lane in lanes if lane.strategy == "block_diffusion"), next(iter(lanes), None))
    return None if lane is None else lane.name


def figures_of(race: Race | None, chosen: str | None) -> list[Any]:
    """The three figures of a race; None without data. chosen: the name of the lane in the last figure."""
    lanes = [lane for lane in race.lanes if lane.trace.events] if race else []
    if not lanes:
        return [None, None, None]
    of = next((lane for lane in lanes if lane.name == chosen), lanes[0])
    return [
        race_figures.tokens_over_time(lanes),
        race_figures.unmasked_per_step(lanes),
        race_figures.confidence_map(of),
    ]
