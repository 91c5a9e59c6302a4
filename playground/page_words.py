"""Words of the page: errors with the number of the lane and the label of the field, a sentence as HTML, bytes.

The engine names a setting as Python code does: "threshold is 2; it must be above 0 and at most 1." A visitor reads
"Lane 2, Threshold: 2 is not allowed; it must be above 0 and at most 1."
"""

import html
from collections.abc import Mapping

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
}


def in_page_words(error: Exception, labels: Mapping[str, str] = LABELS) -> str:
    """The sentence of an error for a visitor of the page. labels: of the form's fields, by dotted name."""
    path = error.field if isinstance(error, NBDiffError) else ()
    where = []
    if path[:1] == ("lanes",) and len(path) > 1:
        where, path = [f"Lane {path[1] + 1}"], path[2:]
    names = [".".join(map(str, path[:end])) for end in range(len(path), 0, -1)]  # an item of a list is in its field
    label = next((labels[name] for name in names if name in labels), names[-1] if where and names else None)
    if label is not None:
        where.append(label)
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


def counted(count: int, noun: str) -> str:
    """A number of things, such as "1 run" or "2 runs"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def bytes_in_words(size: float) -> str:
    """A number of bytes, such as "1.2 GB", "269 MB" or "43 kB"."""
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
