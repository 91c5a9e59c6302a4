"""Options of the page's Gradio events, and the type that their handlers return."""

from typing import Any

QUIET = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
QUEUED = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": 2}

# The new value, or a gr.update, of each component that changes. Gradio accepts no empty dict for an event with several
# outputs: return gr.skip() instead.
Updates = dict[Any, Any]

# Saves a text as a file of the browser; does nothing for an empty text.
SAVE_FILE = """(text, name) => {
    if (!text) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = (name || "file").replace(/[^\\w.-]+/g, "-");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""
