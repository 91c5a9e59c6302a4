"""An answer of a sweep that is opened in the Decode tab."""

import secrets
from dataclasses import dataclass
from typing import Any

from playground.race.run_spec import LaneSpec
from playground.sweep.sweep_table import UnderWay, text_of


@dataclass(frozen=True, slots=True)
class OpenedAnswer:
    """The form of the Decode tab. serial: differs each time, so that Gradio notices the same answer again."""

    prompt: str
    lanes: tuple[LaneSpec, ...]
    max_new_tokens: int
    serial: str


def opened_answer(under_way: UnderWay, chosen: Any) -> OpenedAnswer | None:
    """The prompt of an answer, with a lane for its setting beside one for AR. chosen: {setting, problem}, the numbers
    of both, as the page sends them. None for an answer that is none of this sweep."""
    found = [chosen.get(name) for name in ("setting", "problem")] if isinstance(chosen, dict) else []
    if len(found) != 2 or not all(isinstance(each, int) and each >= 0 for each in found):
        return None
    setting, problem = found
    if setting >= len(under_way.lanes) or problem >= len(under_way.prompts):
        return None
    lane, prompt = under_way.lanes[setting], under_way.prompts[problem]
    ar = next((each for each in under_way.lanes if each.strategy == "ar" and each.model == lane.model), None)
    lanes = (lane,) if ar in (None, lane) else (ar, lane)
    return OpenedAnswer(text_of(prompt), lanes, under_way.max_new_tokens, secrets.token_hex(4))
