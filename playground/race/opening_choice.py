"""The choice of the model that the page shows first, with its line, its example prompts and its presets."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from playground.race.openings import Opening, about
from playground.race.run_spec import LaneSpec
from playground.server.lane_models import LaneModels

OWN_LANES = "Own lanes"  # in the list of presets while the lanes are those of none


class OpeningChoice:
    """The components that differ from opening to opening. Each `build_...` lays one out in the Blocks being built."""

    def __init__(self, openings: Sequence[Opening]):
        self.openings = {each.model: each for each in openings}
        self.first = openings[0]

    def get(self, name: Any) -> Opening:
        """The opening of a model; the first one for any other name."""
        return self.openings.get(name, self.first) if isinstance(name, str) else self.first

    def of_lanes(self, lanes: Sequence[LaneSpec] | None) -> Opening:
        """The opening of the first lane's model."""
        return self.get(lanes[0].model) if lanes else self.first

    def build_choice(self) -> None:
        """The choice, hidden where there is only one opening, and the line."""
        self.model = gr.Radio(
            [(each.label, each.model) for each in self.openings.values()],
            value=self.first.model,
            label="Model on stage",
            show_label=False,
            container=False,
            visible=len(self.openings) > 1,
            elem_id="opening",
        )
        self.line = gr.HTML(_line(self.first.about), js_on_load=None, apply_default_css=False, elem_id="about-model")

    def build_examples(self, prompt: gr.Textbox) -> None:
        """Buttons that fill in the prompt. Gradio neither runs nor caches these examples."""
        self._examples = {
            each.model: gr.Examples(
                [[example.prompt] for example in each.examples],
                inputs=prompt,
                label="Examples",
                example_labels=[example.label for example in each.examples],
                visible=each is self.first,
                api_visibility="private",
            ).dataset
            for each in self.openings.values()
        }

    def build_presets(self) -> None:
        """The list of the presets."""
        names = list(self.first.presets)
        self.preset = gr.Dropdown(names, value=names[0], label="Preset")

    @property
    def outputs(self) -> list[Any]:
        """The components that `shown` changes."""
        return [self.model, self.line, self.preset, *self._examples.values()]

    def shown(self, opening: Opening, lanes: Sequence[LaneSpec]) -> dict[Any, Any]:
        """The components of this opening with these lanes in the form."""
        return {
            self.model: opening.model,
            self.line: _line(opening.about),
            self.preset: self.preset_of(opening, lanes),
            **{buttons: gr.update(visible=name == opening.model) for name, buttons in self._examples.items()},
        }

    def of_filled(self, lanes: Sequence[LaneSpec], loaded: LaneModels) -> dict[Any, Any]:
        """The components for lanes that another tab has filled in. If their models are not those of one opening, none
        is chosen, and the line is about these models."""
        names = dict.fromkeys(lane.model for lane in lanes)
        only = self.openings.get(next(iter(names))) if len(names) == 1 else None
        if only is not None:
            return self.shown(only, lanes)
        known = [about(loaded.get(name)) for name in names if name in loaded.names()]
        return {self.model: None, self.line: _line(" ".join(known)), self.preset: self.preset_of(self.first, lanes)}

    def preset_of(self, opening: Opening, lanes: Sequence[LaneSpec]) -> Any:
        """An update of the list of presets: the one with these lanes, or else `OWN_LANES`."""
        presets = opening.presets
        chosen = next((name for name, each in presets.items() if list(each) == list(lanes)), OWN_LANES)
        names = [*presets, OWN_LANES] if chosen == OWN_LANES else [*presets]
        return gr.update(choices=names, value=chosen)

    def prompt_after(self, typed: Any, opening: Opening) -> str:
        """The prompt for an opening: its first example, unless the visitor has written an own one."""
        examples = {example.prompt for each in self.openings.values() for example in each.examples}
        own = isinstance(typed, str) and typed.strip() and typed not in examples
        return typed if own else opening.examples[0].prompt


def _line(words: str) -> str:
    return f"<p>{html.escape(words)}</p>"
