"""How the tab's events are sent, and what their handlers return."""

from typing import Any

QUIET = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
QUEUED = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": 2}

# A component to its new value, or to a gr.update; a component that is left out stays as it is. Gradio takes no empty
# dict where an event has several outputs: then gr.skip() stands for it.
News = dict[Any, Any]
