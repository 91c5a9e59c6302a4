"""Decode events as compact JSON frames, small enough to send at every poll and complete enough to replay.

A frame says what one forward changed, so the page can rebuild the canvas of any moment by applying the frames
before it. Fields: `kind` (that of the trace format), `time` (seconds of engine work), and

    prefill   prompt_tokens, fixed
    denoise   block, step, start, stop, fixed, pending
    commit    block, start, stop, fixed
    verify    block, start, stop, accepted, fixed
    finish    reason, length (tokens of the answer), text, metrics

`fixed` is a list of [position, token id, text, confidence, reason, runners-up], the runners-up a list of
[text, probability]; `pending` a list of [position, text, confidence]: what a masked position would have become.
Texts are plain strings out of the tokenizer and may hold anything: whoever shows them must not parse them.
"""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from typing import Any

from nbdiff_engine import Metrics
from nbdiff_engine.events import Commit, DecodeEvent, Denoise, Finish, Fixed, Forward, Prefill, Verify
from nbdiff_engine.generate import Job
from nbdiff_engine.metrics import measure
from playground.worker import Frame

RUNNERS_UP = 3  # shown beside a token; the engine records more
TIE = 1.05  # rates closer than this are no difference that one run can show

TextOf = Callable[[int], str]


def lane_frames(job: Job) -> Generator[Frame, None, None]:
    """Decode a checked request of one prompt. Closing the generator stops within one forward."""
    texts: dict[int, str] = {}

    def text_of(token: int) -> str:
        if token not in texts:
            texts[token] = job.model.tokenizer.decode([token])
        return texts[token]

    seen: list[DecodeEvent] = []
    with closing(job.events()) as events:
        for event in events:
            seen.append(event)
            if isinstance(event, Finish):
                yield finish_frame(event, job.text_of(event.token_ids), measure(seen))
            else:
                yield forward_frame(event, text_of)


def forward_frame(event: Forward, text_of: TextOf) -> Frame:
    """One forward as JSON."""
    frame: Frame = {"time": round(event.time, 6), "fixed": [_fixed(each, text_of) for each in event.fixed]}
    match event:
        case Prefill():
            return {"kind": "prefill", "prompt_tokens": event.prompt_tokens, **frame}
        case Denoise():
            pending = [[each.position, text_of(each.token), round(each.confidence, 4)] for each in event.pending]
            return {"kind": "denoise", **_span(event), "step": event.step, **frame, "pending": pending}
        case Commit():
            return {"kind": "commit", **_span(event), **frame}
        case Verify():
            return {"kind": "verify", **_span(event), "accepted": event.accepted, **frame}


def finish_frame(event: Finish, text: str, metrics: Metrics) -> Frame:
    """The end of a lane: its text and its figures."""
    return {
        "kind": "finish",
        "time": round(event.time, 6),
        "reason": event.reason.value,
        "length": len(event.token_ids),
        "text": text,
        "metrics": dataclasses.asdict(metrics),
    }


def summary_frame(names: Sequence[str], frames: Iterable[Frame]) -> Frame:
    """The verdict over the lanes of a finished run; `names` in the order of the lanes."""
    figures = {names[frame["lane"]]: frame["metrics"] for frame in frames if frame["kind"] == "finish"}
    return {"kind": "summary", "verdict": verdict(figures)}


def verdict(figures: dict[str, dict[str, Any]]) -> str:
    """One sentence on who was faster in this run. `figures`: Metrics as dicts by lane, the first the baseline.

    Rates are compared, not totals: answers differ in length.
    """
    if len(figures) < 2:
        return ""
    rates = {name: each["tokens_per_second"] for name, each in figures.items()}
    short = [name for name, rate in rates.items() if not rate]
    if short:
        return f"No verdict: the answer of {' and of '.join(short)} is too short to have a rate."
    ranked = sorted(rates, key=rates.__getitem__, reverse=True)
    first, second = ranked[:2]
    forwards = "; ".join(
        f"{name} took {each['decode_forwards']} forwards for {each['output_tokens']} tokens"
        for name, each in figures.items()
    )
    ratio = rates[first] / rates[second]
    if ratio < TIE:
        return f"A tie in this run, at about {rates[first]:,.0f} output tokens/s: {forwards}."
    return (
        f"{first} won this run, {ratio:.1f} times as fast as {second} "
        f"({rates[first]:,.0f} against {rates[second]:,.0f} output tokens/s): {forwards}."
    )


def _span(event: Denoise | Commit | Verify) -> Frame:
    return {"block": event.block, "start": event.start, "stop": event.stop}


def _fixed(fixed: Fixed, text_of: TextOf) -> list[Any]:
    runners_up = [[text_of(token), round(p, 4)] for token, p in fixed.runners_up[:RUNNERS_UP]]
    return [
        fixed.position,
        fixed.token,
        text_of(fixed.token),
        round(fixed.confidence, 4),
        fixed.reason.value,
        runners_up,
    ]
