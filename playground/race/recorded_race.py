"""The races that the page shows before anything is decoded: one for each model that it can open on.

    python -m playground.race.recorded_race                   # record that of nano again
    python -m playground.race.recorded_race smollm2-drafts    # that of smollm2, after a change of its draft adapter

A race is the first example and the first preset of the model's opening, decoded on this machine, with its times.
"""

import json
import sys
from functools import cache, partial
from pathlib import Path

from nbdiff_engine import NBDiffError, choose_threads, load, prepare
from nbdiff_engine.bundled_files import ASSETS
from playground.race.frames import lane_frames, race_of
from playground.race.lanes import about, warm_up
from playground.race.openings import MAX_NEW_TOKENS, opening_of
from playground.race.race_file import Race
from playground.race.verdict import summary
from playground.server.tables import STRATEGY_NAMES
from playground.server.worker import Logged

_FOLDER = ASSETS / "races"
_DEFAULT = "nano"


@cache
def recorded_race(model: str = _DEFAULT) -> Race | None:
    """The bundled race of a model; that of nano for a model without one; None if the files are missing."""
    files = (_file(name) for name in (model, _DEFAULT))
    file = next((each for each in files if each.is_file()), None)
    return None if file is None else Race.from_json(json.loads(file.read_text(encoding="utf-8")))


def record(name: str = _DEFAULT, path: Path | None = None) -> Race:
    """Warm up, decode the first example with the first preset, and write the race to `path`; None: the bundled file."""
    model = load(name)
    choose_threads(model)
    warm_up(model, partial(prepare, model))
    opening = opening_of(model)
    prompt = opening.examples[0].prompt
    log: list[Logged] = []
    for number, lane in enumerate(opening.lanes):
        job = prepare(model, prompt, max_new_tokens=MAX_NEW_TOKENS, **lane.settings())
        for frame in lane_frames(STRATEGY_NAMES[lane.strategy], about(job), job):
            log.append(Logged(frame, number))
    log.append(Logged(summary(log)))
    recorded = race_of(log, prompt)
    text = json.dumps(recorded.to_json(), ensure_ascii=False, separators=(",", ":")) + "\n"
    (path or _file(name)).write_text(text, encoding="utf-8")
    return recorded


def _file(model: str) -> Path:
    return _FOLDER / f"{model}.json"


if __name__ == "__main__":
    try:
        print(record(*sys.argv[1:2]).verdict)
    except NBDiffError as error:
        sys.exit(f"error: {error}")
