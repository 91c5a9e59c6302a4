"""Words of the page: errors with the number of the lane and the label of the field, a sentence as HTML, bytes.

The engine names a setting as Python code does: "threshold is 2; it must be above 0 and at most 1." A visitor reads
"Lane 2, Threshold: 2 is not allowed; it must be above 0 and at most 1."
"""

import html

from nbdiff_engine import NBDiffError
from nbdiff_engine.decoding.settings import SETTING_FIELDS

LABELS = {
    **{name: each.form.label for name, each in SETTING_FIELDS.items()},
    "max_new_tokens": "Max new tokens",
    "model": "Model",
    "prompt": "Prompt",
    "problems": "Problems",
    "block_sizes": "Block sizes",
    "thresholds": "Confidence thresholds",
    "policies": "Policies",
    "models": "Models",
    "lanes": "Lanes",
    "--repo": "Repository",
}


def in_page_words(error: Exception) -> str:
    """The sentence of an error for a visitor of the page."""
    path = error.field if isinstance(error, NBDiffError) else ()
    where = []
    if path[:1] == ("lanes",) and len(path) > 1:
        where, path = [f"Lane {path[1] + 1}"], path[2:]
    if path and (where or path[0] in LABELS):
        where.append(LABELS.get(path[0], str(path[0])))
    if not where:
        return str(error)
    says = str(error)
    if error.rule:
        says = f"{error.value} is not allowed; {error.rule}." if error.value else f"it {error.rule}."
    return f"{', '.join(where)}: {says}"


def say(words: str, error: bool = False) -> str:
    """A sentence beside the buttons as HTML; screen readers announce it. "" stays ""."""
    if not words:
        return ""
    role = "alert" if error else "status"
    return f'<p class="said{" error" if error else ""}" role="{role}">{html.escape(words)}</p>'


def bytes_in_words(size: float) -> str:
    """A number of bytes, such as "1.2 GB", "269 MB" or "43 kB"."""
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
