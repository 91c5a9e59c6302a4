"""What a run could do at each of its checkpoints: the same prompts denoised, with a slider over training time."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from playground.training_tab import curves
from playground.training_tab.form import ASKED
from training.run.run_folder import read_lines

_NOTHING = "The first checkpoint has not been probed yet."
_PASSES = 9  # shades that tell earlier tokens from later ones


class Probes:
    """A slider, what the probe wrote at that step, and how TPF and accuracy have grown."""

    def build(self) -> None:
        """Lay it out in the Blocks being built."""
        with gr.Column(visible=False, elem_id="job-probes") as self.section:
            gr.Markdown("#### The same prompts, denoised at every checkpoint")
            with gr.Row():
                with gr.Column(min_width=320):
                    self.at = gr.Slider(
                        0, 1, value=0, step=1, label="Checkpoint of the probe", elem_id="probe-at", buttons=[]
                    )
                    self.text = gr.HTML(_NOTHING, js_on_load=None, apply_default_css=False, elem_id="probe-text")
                with gr.Column(min_width=320):
                    self.figure = gr.Plot(show_label=False, container=False, elem_id="probe-figure")
        self.lines = gr.State([])

    @property
    def outputs(self) -> list[Any]:
        """What `read` writes to."""
        return [self.section, self.at, self.text, self.figure, self.lines]

    def wire(self) -> None:
        """Listen to the slider."""
        self.at.input(self.show, [self.at, self.lines], [self.text, self.figure], trigger_mode="always_last", **ASKED)

    def read(self, run: Path) -> list[Any]:
        """The probes of a run, the newest one shown."""
        lines = [_without_traces(line) for line in read_lines(run / "probes.jsonl") if line.get("probes")]
        if not lines:
            return [gr.update(visible=False), gr.skip(), _NOTHING, gr.skip(), []]
        last = len(lines)
        slider = gr.update(minimum=1, maximum=max(last, 2), value=last, interactive=last > 1)
        text, figure = self.show(last, lines)
        return [gr.update(visible=True), slider, text, figure, lines]

    def show(self, at: Any, lines: Any) -> tuple[Any, Any]:
        """The probe of one checkpoint."""
        if not isinstance(lines, list) or not lines:
            return gr.skip(), gr.skip()
        place = min(max(int(at or 1), 1), len(lines)) - 1
        line = lines[place]
        return shown(line, place, len(lines)), curves.probed(lines, line["step"])


def shown(line: dict[str, Any], place: int, count: int) -> str:
    """One checkpoint's probes as HTML. What the model wrote is escaped, token by token."""
    facts = [f"Step {line['step']:,}", f"checkpoint {place + 1} of {count}", f"{line['tpf']:.2f} tokens per forward"]
    if line.get("accuracy") is not None:
        facts.append(f"{line['accuracy']:.0%} of {line['problems']} held-out problems")
    answers = "".join(_answer(each) for each in line["probes"])
    return (
        f'<div class="probe"><p role="status">{html.escape(", ".join(facts))}</p>{answers}'
        "<p class='legend'>Darker: fixed in an earlier forward. Tokens of one shade in a block came at once.</p></div>"
    )


def _without_traces(line: dict[str, Any]) -> dict[str, Any]:
    """A page keeps the lines while it watches, and shows no trace."""
    return {**line, "probes": [{key: each[key] for key in each if key != "trace"} for each in line["probes"]]}


def _answer(probe: dict[str, Any]) -> str:
    tokens = "".join(
        f'<span class="p{min(int(step), _PASSES)}" title="forward {int(step) + 1}">{html.escape(text)}</span>'
        for text, step in probe.get("tokens") or [(probe.get("text", ""), 0)]
    )
    return (
        f"<figure><figcaption>{html.escape(probe['prompt'])}</figcaption>"
        f'<p class="answer">{tokens}</p>'
        f"<small>{probe['forwards']} forwards, {probe['tpf']:.2f} tokens per forward</small></figure>"
    )
