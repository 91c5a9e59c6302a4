"""The tables that the page's JavaScript reads as data: strategies, policies, and the settings of a lane.

They are made from the engine's declarations. A new policy or a new field of DecodeSettings needs no change here.
"""

from typing import Any

from nbdiff_engine.decoding.setting_fields import SettingField
from nbdiff_engine.decoding.settings import SETTING_FIELDS, policies_as_json

# The name of each strategy on the page, in the order in which a form offers them.
STRATEGY_NAMES = {"ar": "AR", "block_diffusion": "Block diffusion", "self_speculative": "Self-speculation"}
# Settings of the run, or only for programs. A lane has all other settings.
NOT_OF_A_LANE = frozenset({"max_new_tokens", "stop", "stop_token_ids", "ignore_eos", "logprobs", "settings", "trace"})
LANE_SETTINGS: dict[str, SettingField] = {
    name: each for name, each in SETTING_FIELDS.items() if name not in NOT_OF_A_LANE
}


def player_tables() -> dict[str, Any]:
    """The tables for the race player, as plain JSON values: {"strategies": [{name, label}], "policies": [...]}."""
    strategies = [{"name": name, "label": label} for name, label in STRATEGY_NAMES.items()]
    return {"strategies": strategies, "policies": policies_as_json()}


def form_tables() -> dict[str, Any]:
    """The tables for the lane form: the player's tables, and "settings", the fields of a lane in their order."""
    return {**player_tables(), "settings": [each.to_json() for each in LANE_SETTINGS.values()]}
