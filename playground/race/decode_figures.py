"""The figures below the stage: tokens over time, tokens of each forward, and a map of the confidence."""

from typing import Any

import gradio as gr

from playground.event_options import QUIET
from playground.race import race_figures
from playground.race.race_file import Race
from playground.server.web_files import read


class DecodeFigures:
    """The figures of the race on the stage, laid out in the Blocks being built.

    They are drawn when a visitor first scrolls to them: the browser needs seconds for Plotly's script, and the race
    above them comes first. on_stage: holds the Race.
    """

    def __init__(self, on_stage: gr.State):
        with gr.Accordion("Figures", open=True, elem_id="figures"):
            near = gr.HTML("", js_on_load=read("in_view.js"), apply_default_css=False)
            with gr.Column(visible=False) as self.shown:
                with gr.Row():
                    with gr.Column(min_width=320):
                        gr.Markdown("### Output tokens over time")
                        over_time = gr.Plot(show_label=False, container=False)
                    with gr.Column(min_width=320):
                        gr.Markdown("### Tokens fixed by each forward (filled: denoise; hollow: commit or verify)")
                        per_step = gr.Plot(show_label=False, container=False)
                gr.Markdown("### Confidence at each position in each forward")
                self.lane = gr.Dropdown([], label="Lane", min_width=200, elem_id="map-lane")
                confidence = gr.Plot(show_label=False, container=False)
        self.plots = [over_time, per_step, confidence]
        self.seen = gr.State(False)
        self._inputs = [on_stage, self.seen]
        self._outputs = [self.seen, self.shown, self.lane, *self.plots]
        near.seen(self._draw, on_stage, self._outputs, **QUIET)
        self.lane.input(lambda race, lane: figures_of(race, lane)[-1], [on_stage, self.lane], confidence, **QUIET)

    def follow(self, *changes: Any) -> None:
        """Draw the race again after these events, which put another one on the stage."""
        for change in changes:
            change.then(self._draw_again, self._inputs, self._outputs, **QUIET)

    def _draw(self, race: Race | None) -> dict[Any, Any]:
        """The three figures of a race, and the list of its lanes for the confidence map."""
        chosen = first_mapped(race)
        names = [lane.name for lane in race.lanes] if race else []
        return {
            self.seen: True,
            self.shown: gr.update(visible=True),
            self.lane: gr.update(choices=names, value=chosen),
            **dict(zip(self.plots, figures_of(race, chosen), strict=True)),
        }

    def _draw_again(self, race: Race | None, seen: bool) -> Any:
        return self._draw(race) if seen else gr.skip()


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
