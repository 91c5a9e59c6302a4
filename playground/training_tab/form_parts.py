"""The components of the form of a new job."""

from dataclasses import dataclass, field
from typing import Any

import gradio as gr


@dataclass(slots=True)
class Parts:
    """The components of the form. values: one for each of `form_fields`, in that order."""

    preset: gr.Dropdown
    base: gr.Dropdown
    data: gr.Dropdown
    name: gr.Textbox
    max_steps: gr.Textbox
    epochs: gr.Textbox
    lora: gr.Checkbox
    quantization: gr.Radio
    values: list[Any] = field(default_factory=list)

    def all(self) -> list[Any]:
        """The inputs of the handlers, in the order of their arguments."""
        return [
            self.preset,
            self.base,
            self.data,
            self.name,
            self.max_steps,
            self.epochs,
            self.lora,
            self.quantization,
            *self.values,
        ]
