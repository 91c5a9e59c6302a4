"""A fork: a visitor changes a recorded lane at one of its events, and a new lane decodes the rest again.

The page sends the trace up to that event, so runs, the recorded race and imported files are forked in the same way.
Everything in the request is checked.
"""

from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine import BlockModel, SettingError, prepare
from nbdiff_engine.decoding.prompts import control_tokens_of
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import first_problem
from nbdiff_engine.forking import continued, fork
from nbdiff_engine.trace.trace_file import Trace
from playground.options import ServerOptions
from playground.race.lanes import CheckedRun, about, guarded
from playground.race.stage import LaneTitle
from playground.request_limits import check_new_tokens
from playground.server.lane_models import LaneModels
from playground.server.worker import RunPart

_MOST_EVENTS = 20_000


class ForkRequest(BaseModel):
    """changes: pairs of a position and a token id, text, or None for a mask. settings: those to change."""

    model_config = ConfigDict(extra="ignore")

    trace: dict[str, Any]
    name: str = Field(default="", max_length=200)
    changes: list[tuple[int, int | str | None]] = Field(default_factory=list, max_length=200)
    settings: dict[str, Any] = Field(default_factory=dict, max_length=30)


def check_fork(loaded: LaneModels, data: Any, options: ServerOptions) -> CheckedRun:
    """The fork as a checked run of one lane. Raises NBDiffError, one sentence."""
    if loaded.why_no_forks:
        raise SettingError(loaded.why_no_forks)
    try:
        request = ForkRequest.model_validate(data)
    except ValidationError as error:
        raise SettingError(f"The fork cannot be read: {first_problem(error)}.") from error
    if len(request.trace.get("events") or ()) > _MOST_EVENTS:
        raise SettingError(f"The trace has more than {_MOST_EVENTS:,} events, the most that a fork may have.")
    trace = Trace.from_json(request.trace, whole=False)
    if len(trace.prompt_ids) > options.max_prompt_chars:
        raise SettingError(f"The trace's prompt has more than {options.max_prompt_chars:,} tokens.")
    model = loaded.get(trace.model)
    settings = _settings(trace, request.settings)
    check_new_tokens(settings["max_new_tokens"], options)
    changes = _changes(model, trace, request.changes)
    edit, start = fork(trace, len(trace.events), changes)
    job = prepare(model, list(trace.prompt_ids), start=start, **settings)
    step = len(trace.events)
    name = f"Fork of {request.name or 'a trace'} at event {step}"
    line = about(job) + (f", {len(changes)} changed by hand" if changes else "")
    events = partial(continued, trace.events, edit, job)
    title = LaneTitle(name, line)
    return CheckedRun([RunPart(name, partial(guarded, loaded, job, title, events))], [title], [job], "")


def _settings(trace: Trace, wanted: dict[str, Any]) -> dict[str, Any]:
    known = DecodeSettings.model_fields
    for name in (*trace.settings, *wanted):
        if name not in known:
            raise SettingError(f"The trace has a setting {name!r}, which this engine does not have.")
    settings = {**trace.settings, **{name: value for name, value in wanted.items() if value is not None}}
    checked = DecodeSettings.of(**settings)
    return checked.model_dump()


def _changes(model: BlockModel, trace: Trace, requested: list[tuple[int, int | str | None]]) -> dict[int, int | None]:
    """The changes by position. Text becomes one or more tokens, on successive positions."""
    changes: dict[int, int | None] = {}
    for position, new in requested:
        if not isinstance(new, str):
            changes[position] = new
            continue
        control = control_tokens_of(model)
        ids = control.encode(control.mark(new))
        if not ids:
            raise SettingError(f"The new text for position {position} is empty; type a word, or re-mask the token.")
        for offset, token in enumerate(ids):
            changes[position + offset] = token
    return changes
