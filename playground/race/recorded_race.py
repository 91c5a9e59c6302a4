"""The race that the page shows first. To record it with the bundled model: python -m playground.race.recorded_race"""

import json
from functools import cache
from pathlib import Path

from nbdiff_engine.bundled_files import ASSETS
from playground.race.race_file import Race
from playground.server.worker import Logged

RECORDED_FILE = ASSETS / "recorded_race.json"


@cache
def recorded_race() -> Race | None:
    """The bundled race; None if its file is missing."""
    if not RECORDED_FILE.exists():
        return None
    return Race.from_json(json.loads(RECORDED_FILE.read_text(encoding="utf-8")))


def record(path: Path = RECORDED_FILE) -> Race:
    """Warm up, decode the first example with the first preset, and write the race to `path`."""
    from nbdiff_engine import choose_threads, load, prepare
    from playground.race.examples import EXAMPLES, MAX_NEW_TOKENS
    from playground.race.frames import lane_frames, race_of
    from playground.race.lanes import about, warm_up
    from playground.race.presets import FIRST, presets
    from playground.race.verdict import summary
    from playground.server.tables import STRATEGY_NAMES

    model = load("nano")
    choose_threads(model)
    warm_up(model)
    log: list[Logged] = []
    for number, lane in enumerate(presets(model)[FIRST]):
        job = prepare(model, EXAMPLES[0], max_new_tokens=MAX_NEW_TOKENS, **lane.settings())
        for frame in lane_frames(STRATEGY_NAMES[lane.strategy], about(job), job):
            log.append(Logged(frame, number))
    log.append(Logged(summary(log)))
    recorded = race_of(log, EXAMPLES[0])
    path.write_text(json.dumps(recorded.to_json(), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    return recorded


if __name__ == "__main__":
    print(record().verdict)
