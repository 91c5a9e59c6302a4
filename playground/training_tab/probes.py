"""The probes of a run: the same prompts decoded at each checkpoint, with a slider over the checkpoints."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from playground.event_options import QUIET, Updates
from playground.training_tab import curves
from training.run.log_lines import Probe, ProbeAnswer

_NOTHING = "The first checkpoint has not been probed yet."
_LAST_SHADE = 9  # the CSS classes p0 to p9 are the shades of the forwards


class Probes:
    """A slider, the answers at that checkpoint, and a figure of TPF and accuracy over the steps."""

    def build(self) -> None:
        """Lay it out in the Blocks being built."""
        with gr.Column(visible=False, elem_id="job-probes") as self.section:
            gr.Markdown("#### Probes: the same prompts at every checkpoint")
            with gr.Row():
                with gr.Column(min_width=320):
                    self.at = gr.Slider(
                        0, 1, value=0, step=1, label="Probe at checkpoint", elem_id="probe-at", buttons=[]
                    )
                    self.text = gr.HTML(_NOTHING, js_on_load=None, apply_default_css=False, elem_id="probe-text")
                with gr.Column(min_width=320):
                    self.figure = gr.Plot(show_label=False, container=False, elem_id="probe-figure")
        self.probes = gr.State(())

    @property
    def outputs(self) -> list[Any]:
        """The components that `updates` changes."""
        return [self.section, self.at, self.text, self.figure, self.probes]

    def wire(self) -> None:
        """Register the event of the slider."""
        self.at.input(self.show, [self.at, self.probes], [self.text, self.figure], trigger_mode="always_last", **QUIET)

    def updates(self, probes: Sequence[Probe]) -> Updates:
        """Show the probes of a run, with the newest one selected."""
        count = len(probes)
        if not count:
            return {self.section: gr.update(visible=False), self.text: _NOTHING, self.probes: ()}
        slider = gr.update(minimum=1, maximum=max(count, 2), value=count, interactive=count > 1)
        shown_ = self.show(count, probes)
        return {self.section: gr.update(visible=True), self.at: slider, self.probes: tuple(probes), **shown_}

    def show(self, at: Any, probes: Sequence[Probe]) -> Updates:
        """Show one probe. at: its number, from 1."""
        if not probes:
            return {self.text: gr.skip()}
        place = min(max(int(at or 1), 1), len(probes)) - 1
        return {
            self.text: shown(probes[place], place, len(probes)),
            self.figure: curves.probed(probes, probes[place].step),
        }


def shown(probe: Probe, place: int, count: int) -> str:
    """A probe as HTML. The decoded text is escaped. place: from 0."""
    facts = [
        f"Step {probe.step:,}",
        f"checkpoint {place + 1} of {count}",
        f"{probe.tokens_per_forward:.2f} tokens per forward",
    ]
    if probe.accuracy is not None:
        facts.append(f"{probe.accuracy:.0%} of {probe.problems} held-out problems")
    answers = "".join(_answer(each) for each in probe.answers)
    return (
        f'<div class="probe"><p role="status">{html.escape(", ".join(facts))}</p>{answers}'
        "<p class='legend'>Darker: fixed in an earlier forward. "
        "Tokens with the same shade in a block were fixed in the same forward.</p></div>"
    )


def _answer(answer: ProbeAnswer) -> str:
    tokens = "".join(
        f'<span class="p{min(forward, _LAST_SHADE)}" title="forward {forward + 1}">{html.escape(text)}</span>'
        for text, forward in answer.tokens
    )
    return (
        f"<figure><figcaption>{html.escape(answer.prompt)}</figcaption>"
        f'<p class="answer">{tokens}</p>'
        f"<small>{answer.forwards} forwards, {answer.tokens_per_forward:.2f} tokens per forward</small></figure>"
    )
