"""The tables for the page's JavaScript equal the declarations of the engine."""

import json

from nbdiff_engine.decoding.settings import STRATEGIES
from nbdiff_engine.token_choice.unmasking import POLICIES
from playground.server.replay_file import replay_html
from playground.server.tables import LANE_SETTINGS, STRATEGY_NAMES, form_tables, player_tables


def test_every_strategy_of_the_engine_has_a_name() -> None:
    assert tuple(STRATEGY_NAMES) == STRATEGIES


def test_the_tables_are_json_and_contain_every_policy_and_setting() -> None:
    tables = form_tables()
    assert json.loads(json.dumps(tables)) == json.loads(json.dumps(form_tables()))
    assert [each["name"] for each in tables["policies"]] == list(POLICIES)
    assert [each["name"] for each in tables["settings"]] == list(LANE_SETTINGS)
    assert {each["setting"] for each in tables["policies"]} <= set(LANE_SETTINGS)


def test_a_replay_file_contains_the_tables_of_the_player() -> None:
    html = replay_html({"title": "t", "lanes": []})
    embedded = html.split('id="tables">', 1)[1].split("</script>", 1)[0]
    assert json.loads(embedded) == json.loads(json.dumps(player_tables()))
