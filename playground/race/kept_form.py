"""The form of the Decode tab as the browser keeps it, so that a reload does not lose it."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from nbdiff_engine import NBDiffError
from playground.options import ServerOptions
from playground.race.run_spec import LaneSpec, RunSpec

# What the page opens with: "link:", or "form:" and the form as it was before a reload.
READ_OPENING = """() => {
    if (location.hash.startsWith("#run=")) return ["link:" + location.hash.slice(5)];
    try {
        const form = JSON.parse(localStorage.getItem("nbdiff.form") ?? "{}");
        const lanes = JSON.parse(localStorage.getItem("nbdiff.lanes") ?? "null");
        const has_race = localStorage.getItem("nbdiff.race") !== null;
        return ["form:" + JSON.stringify({ ...form, lanes, has_race })];
    } catch { return [""]; }
}"""
KEEP_FORM = """(prompt, max_new_tokens, switches) => {
    try { localStorage.setItem("nbdiff.form", JSON.stringify({ prompt, max_new_tokens, switches })); } catch {}
}"""


@dataclass(frozen=True, slots=True)
class KeptForm:
    """The fields that could be read; None for the others. has_race: whether the browser shows the last race."""

    prompt: str | None = None
    lanes: Sequence[LaneSpec] | None = None
    max_new_tokens: int | None = None
    switches: list | None = None
    has_race: bool = False


def kept_form(stored: str, options: ServerOptions) -> KeptForm:
    """Read what the browser has stored. Anything may be in it: a field that is not valid is left out."""
    form: object = None
    with contextlib.suppress(ValueError, RecursionError):
        form = json.loads(stored)
    if not isinstance(form, dict):
        return KeptForm()
    prompt, limit, switches = (form.get(name) for name in ("prompt", "max_new_tokens", "switches"))
    lanes: Sequence[LaneSpec] = ()
    with contextlib.suppress(NBDiffError):
        lanes = RunSpec.of(prompt="", lanes=form.get("lanes")).lanes[: options.max_lanes]
    is_limit = isinstance(limit, int) and not isinstance(limit, bool) and 1 <= limit <= options.max_new_tokens
    return KeptForm(
        prompt=prompt if isinstance(prompt, str) and len(prompt) <= options.max_prompt_chars else None,
        lanes=lanes or None,
        max_new_tokens=limit if is_limit else None,
        switches=switches if isinstance(switches, list) else None,
        has_race=form.get("has_race") is True,
    )
