"""Words of the page: errors with the number of the lane and the label of the field, a sentence as HTML, bytes.

The engine names a setting as Python code does: "threshold is 2; it must be above 0 and at most 1." A visitor reads
"Lane 2, Threshold: 2 is not allowed; it must be above 0 and at most 1."
"""

import html
import re

from nbdiff_engine import SettingError
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
_FIELD = re.compile(r"^(?:lanes\.(?P<lane>\d+)\.?)?(?P<field>[a-z_]*)(?:\.\d+)*(?P<verb> is | has )(?P<rest>.*)$", re.S)


class LaneError(SettingError):
    """An error in the settings of one lane. number: of the lane, from 1."""

    def __init__(self, number: int, sentence: str):
        super().__init__(sentence)
        self.number = number


def in_page_words(error: Exception) -> str:
    """The sentence of an error for a visitor of the page."""
    sentence = str(error)
    lane = f"Lane {error.number}" if isinstance(error, LaneError) else ""
    found = _FIELD.match(sentence)
    if found is None or (found["field"] not in LABELS and not found["lane"]):
        return f"{lane}: {sentence}" if lane else sentence
    if found["field"] == "max_new_tokens":  # of the run, although a lane's settings were checked
        lane = ""
    if found["lane"] is not None:
        lane = f"Lane {int(found['lane']) + 1}"
    label = LABELS.get(found["field"], found["field"])
    where = ", ".join(part for part in (lane, label) if part) or "Lanes"
    rest = found["rest"]
    if found["verb"] == " has ":
        return f"{where}: it has {rest}"
    if rest.startswith("empty"):
        return f"{where}: it is {rest}"
    # The value ends before the rule that it breaks.
    value, mark, rule = _split(rest)
    return f"{where}: {value} is not allowed{mark} {rule}" if mark else f"{where}: it is {rest}"


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


def _split(rest: str) -> tuple[str, str, str]:
    """The value, the mark after it, and the rule. A value in quotes may contain a mark."""
    quoted = re.match(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")([;:]) (.*)""", rest, re.S)
    if quoted:
        return quoted[1], quoted[2], quoted[3]
    plain = re.match(
        r"(.*?)([;:]) (?=it must|this server |input |choose|expected|give|a token|value |string )(.*)", rest, re.S
    )
    return (plain[1], plain[2], plain[3]) if plain else (rest, "", "")
