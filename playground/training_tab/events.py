"""Options of the tab's Gradio events, and the type that their handlers return."""

from typing import Any

QUIET = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
QUEUED = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": 2}

# The new value, or a gr.update, of each component that changes. Gradio accepts no empty dict for an event with several
# outputs: return gr.skip() instead.
Updates = dict[Any, Any]
