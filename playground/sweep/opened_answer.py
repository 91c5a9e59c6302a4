"""An answer of a sweep that is opened in the Decode tab."""

import secrets
from collections.abc import Sequence
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


def opened_answer(under_way: UnderWay, cells: Sequence[Any] | None) -> OpenedAnswer | None:
    """The prompt of an answer, with a lane for its setting beside one for AR. cells: its row, as the page sends it;
    the last two are the numbers of the setting and of the problem. None for a row that is none of this sweep."""
    try:
        setting, problem = (int(cell) for cell in cells[-2:])
        lane, prompt = under_way.lanes[setting], under_way.prompts[problem]
    except (IndexError, TypeError, ValueError):
        return None
    ar = next((each for each in under_way.lanes if each.strategy == "ar" and each.model == lane.model), None)
    lanes = (lane,) if ar in (None, lane) else (ar, lane)
    return OpenedAnswer(text_of(prompt), lanes, under_way.max_new_tokens, secrets.token_hex(4))
