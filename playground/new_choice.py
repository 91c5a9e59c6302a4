"""An event of a list that comes once for each other choice.

Gradio 6.31 sends the event `input` of a gr.Dropdown also when the list is closed without a choice and when it loses the
focus, so twice for a choice by click. A handler that fills a form from the choice would then discard what a visitor has
changed in the form, also between the two events. The event `blur` comes once each time the list is closed, after the
choice is set.
"""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from playground.event_options import Updates


def on_new_choice(
    chosen: gr.Dropdown, handler: Callable[..., Updates], inputs: Sequence[Any], outputs: Sequence[Any], **options: Any
) -> Any:
    """Call the handler with another choice and the values of `inputs`; returns Gradio's event, for `then`."""
    before = gr.Textbox(visible=False)  # what was chosen when the list was opened
    chosen.focus(None, chosen, before, js="(chosen) => chosen", api_visibility="private")

    def handled(known: Any, now: Any, *given: Any) -> Any:
        # The hidden field holds text, and "" for no choice.
        return gr.skip() if str(known or "") == str(now or "") else handler(now, *given)

    handled.__name__ = handler.__name__
    # By default Gradio drops an event that comes before the one before it has ended; here that may be the choice.
    return chosen.blur(handled, [before, chosen, *inputs], outputs, **{"trigger_mode": "multiple", **options})
