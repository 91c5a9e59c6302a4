"""Check a race that a visitor has imported from a file, before its figures are drawn.

The page has checked and shown it already. The server does not rely on that check.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine import TraceError
from nbdiff_engine.errors import first_problem
from nbdiff_engine.trace.events import Finish
from nbdiff_engine.trace.metrics import measure
from nbdiff_engine.trace.trace_file import Trace
from playground.race.race_file import Race, RaceLane

MOST_EVENTS = 20_000  # of one lane


class _LaneInFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(max_length=200)]
    about: Annotated[str, Field(max_length=400)] = ""
    trace: dict[str, Any]
    context: Literal["token_causal", "block_causal"] | None = None
    token_shift: bool | None = True
    text: str = ""


class _RaceInFile(BaseModel):
    model_config = ConfigDict(extra="ignore")

    format: Literal["nbdiff-race"]
    version: Literal[1]
    title: Annotated[str, Field(max_length=20_000)] = ""
    verdict: Annotated[str, Field(max_length=2_000)] = ""
    lanes: Annotated[list[_LaneInFile], Field(min_length=1, max_length=24)]


def check_race(data: Any) -> Race:
    """The content of a race file, with metrics computed from its events. Raises TraceError, one sentence."""
    try:
        race = _RaceInFile.model_validate(data)
    except ValidationError as error:
        raise TraceError(f"This is not a race file: {first_problem(error)}.") from error
    lanes = []
    for lane in race.lanes:
        if len(lane.trace.get("events") or ()) > MOST_EVENTS:
            raise TraceError(f"The lane {lane.name!r} has more than {MOST_EVENTS:,} events, the most that is allowed.")
        trace = Trace.from_json(lane.trace, whole=False)
        # A lane that was stopped has no finish, and no metrics.
        metrics = measure(trace.events) if trace.events and isinstance(trace.events[-1], Finish) else None
        lanes.append(RaceLane(lane.name, lane.about, trace, lane.context, lane.token_shift, metrics, lane.text))
    return Race(race.title, race.verdict, tuple(lanes))
