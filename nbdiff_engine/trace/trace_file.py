"""Trace: one answer's events, the texts of their tokens, and a file format to store and replay them.

A trace file is JSON: `{"format": "nbdiff-trace", "version": 3, ...}`. An event is a short array that contains only
the changes of its forward; `docs/trace-format.md` describes each field. The texts of tokens are stored once, under
`pieces`, `bytes` and `answer_pieces`, so a reader needs no tokenizer.
"""

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from nbdiff_engine.errors import TraceError, brief, brief_text
from nbdiff_engine.trace.events import (
    Commit,
    DecodeEvent,
    Denoise,
    Edit,
    Finish,
    FinishReason,
    Fixed,
    Pending,
    Prefill,
    Reason,
    TokenLogprobs,
    Verify,
)
from nbdiff_engine.trace.metrics import Metrics, measure

FORMAT = "nbdiff-trace"
VERSION = 3
READABLE = (1, 2, 3)  # version 2 adds one kind of event, the edit; version 3 adds drafts to a verify

_DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # what JSON of another shape raises


class Canvas:
    """The answer after some of its events: token ids, None where masked. Every view replays the events onto it."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        """tokens: the part of the answer that existed before the first event."""
        self.tokens: list[int | None] = list(tokens)
        self.committed = len(self.tokens)  # tokens that are context and will not change
        self.final = len(self.tokens)  # those, and the tokens after them that are no drafts, up to the first mask
        self._drafted = False  # whether tokens after the final ones are drafts

    def apply(self, event: DecodeEvent) -> None:
        """Advance by one event of this row."""
        match event:
            case Prefill():
                self._place(event.fixed)
            case Denoise():
                self.tokens.extend([None] * (event.stop - len(self.tokens)))
                self._place(event.fixed)
                self._drafted |= any(each.reason is Reason.DRAFT for each in event.fixed)
            case Commit():
                self.committed = event.stop
                self._place(event.fixed)
            case Verify():
                self.committed = event.start + 1 + event.accepted
                del self.tokens[self.committed :]
                self._place(event.fixed)
                drafts = sum(each.reason is Reason.DRAFT for each in event.fixed)
                self.final = len(self.tokens) - drafts
                self._drafted = drafts > 0
            case Edit():
                self.tokens[event.start :] = event.tokens
                self.committed = self.final = event.start
                self._drafted = False
            case Finish():
                self.tokens = list(event.token_ids)
                self.committed = self.final = len(self.tokens)
        while not self._drafted and self.final < len(self.tokens) and self.tokens[self.final] is not None:
            self.final += 1

    def _place(self, fixed: Iterable[Fixed]) -> None:
        for each in fixed:
            self.tokens.extend([None] * (each.position + 1 - len(self.tokens)))
            self.tokens[each.position] = each.token


@dataclass(frozen=True, slots=True)
class Trace:
    """All events of one answer. settings: the decode settings, filled in from the spec.

    pieces: token id to its text where a word precedes it. partial_bytes: token id to its bytes, for tokens that begin
    or end within a character. answer_pieces: by position of the answer, the text that its token adds; they join to the
    answer's text before it is cut at a stop string. Empty in files of earlier releases.
    """

    model: str
    settings: dict[str, Any]
    mask_token_id: int | None
    prompt: str | None
    prompt_ids: tuple[int, ...]
    events: tuple[DecodeEvent, ...]
    pieces: dict[int, str] = field(default_factory=dict)
    partial_bytes: dict[int, bytes] = field(default_factory=dict)
    answer_pieces: tuple[str, ...] = ()

    @property
    def metrics(self) -> Metrics:
        return measure(self.events)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The answer, cut to length, including the EOS."""
        return self.events[-1].token_ids

    def replay(self) -> Iterator[tuple[DecodeEvent, Canvas]]:
        """The events in order, each with the canvas after it. The canvas is a single object, changed by each event."""
        canvas = Canvas()
        for event in self.events:
            canvas.apply(event)
            yield event, canvas

    def denoise_inputs(self) -> list[list[int]]:
        """The input block of each denoise pass, with MASK at masked positions."""
        inputs, canvas = [], Canvas()
        for event in self.events:
            if isinstance(event, Denoise):
                tail = self.prompt_ids[event.start :] if event.start < 0 else ()
                known = canvas.tokens[max(event.start, 0) : event.stop]
                block = [*tail, *known] + [None] * (event.stop - max(event.start, 0) - len(known))
                inputs.append([self.mask_token_id if token is None else token for token in block])
            canvas.apply(event)
        return inputs

    def to_json(self) -> dict[str, Any]:
        """The file's content as plain JSON values."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "settings": self.settings,
            "mask_token_id": self.mask_token_id,
            "prompt": self.prompt,
            "prompt_ids": list(self.prompt_ids),
            "pieces": {str(token): text for token, text in self.pieces.items()},
            "bytes": {str(token): each.hex() for token, each in self.partial_bytes.items()},
            "answer_pieces": list(self.answer_pieces),
            "events": [pack(event) for event in self.events],
            "candidates": [
                [number, position, token]
                for number, event in enumerate(self.events)
                if isinstance(event, Verify)
                for position, token in event.candidates
            ],
        }

    @classmethod
    def from_json(cls, data: Any, whole: bool = True) -> Self:
        """The inverse of `to_json`. Raises TraceError if `data` is not a trace, or its events are not possible.

        whole: whether it must end with a finish; if False, a trace may be cut after any of its events.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise TraceError("This is not a trace: it has no entry 'format' that says 'nbdiff-trace'.")
        if data.get("version") not in READABLE or isinstance(data["version"], bool):
            known = ", ".join(map(str, READABLE))
            raise TraceError(f"This trace has version {brief(data.get('version'))}; this engine reads {known}.")
        try:
            trace = cls(
                model=str(data["model"]),
                settings=dict(data["settings"]),
                mask_token_id=None if data["mask_token_id"] is None else _integer(data["mask_token_id"]),
                prompt=None if data["prompt"] is None else str(data["prompt"]),
                prompt_ids=tuple(_integer(token) for token in data["prompt_ids"]),
                events=_with_candidates([_unpack(packed) for packed in data["events"]], data.get("candidates", ())),
                pieces={int(token): str(text) for token, text in data["pieces"].items()},
                partial_bytes={int(token): bytes.fromhex(each) for token, each in data.get("bytes", {}).items()},
                answer_pieces=tuple(str(text) for text in data.get("answer_pieces", ())),
            )
            _check_order(trace.events, len(trace.prompt_ids), whole)
            if whole and trace.answer_pieces and len(trace.answer_pieces) != len(trace.token_ids):
                raise ValueError(f"it has {len(trace.answer_pieces)} texts for {len(trace.token_ids)} tokens")
            return trace
        except _DAMAGE as error:
            raise TraceError(f"This trace is damaged: {brief_text(str(error), 120)}.") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; it replaces an existing file only after it is complete. Raises TraceError."""
        target = Path(path)
        beside = target.with_name(target.name + ".part")
        try:
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            text = json.dumps(self.to_json(), ensure_ascii=False, separators=(",", ":"))
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, target)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise TraceError(f"The trace cannot be written to {path}: {error.strerror}.") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a trace file. Raises TraceError if it cannot be read or is not a trace."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or JSON that is nested too deeply
            raise TraceError(f"The trace {path} is not JSON; it may have been cut off.") from error
        except OSError as error:
            raise TraceError(f"The trace {path} cannot be read: {error.strerror}.") from error
        return cls.from_json(data)


def token_ids_of(events: Iterable[DecodeEvent]) -> set[int]:
    """All token ids in the events, including alternatives and pending tokens."""
    ids: set[int] = set()
    for event in events:
        if isinstance(event, Finish):
            ids.update(event.token_ids)
            continue
        if isinstance(event, Edit):
            ids.update(token for token in event.tokens if token is not None)
            continue
        for fixed in event.fixed:
            ids.add(fixed.token)
            ids.update(token for token, _ in fixed.alternatives)
            if fixed.logprobs is not None:
                ids.update(token for token, _ in (*fixed.logprobs.top, *fixed.logprobs.top_processed))
        if isinstance(event, Denoise):
            ids.update(each.token for each in event.pending)
        if isinstance(event, Verify):
            ids.update(token for _, token in event.candidates)
    return ids


# -- one event as a JSON array, and back ----------------------------------------------------------------


def pack(event: DecodeEvent) -> list[Any]:
    """An event as the JSON array that docs/trace-format.md describes."""
    time = round(event.time, 6)
    match event:
        case Prefill():
            return ["prefill", event.row, time, event.prompt_tokens, _pack_fixed(event.fixed)]
        case Denoise():
            pending = [[each.position, each.token, each.confidence] for each in event.pending]
            span = [event.block, event.step, event.start, event.stop]
            return ["denoise", event.row, time, *span, _pack_fixed(event.fixed), pending]
        case Commit():
            return ["commit", event.row, time, event.block, event.start, event.stop, _pack_fixed(event.fixed)]
        case Verify():
            span = [event.block, event.start, event.stop, event.accepted]
            return ["verify", event.row, time, *span, _pack_fixed(event.fixed)]
        case Edit():
            return ["edit", event.row, time, event.start, list(event.tokens), list(event.changed)]
        case Finish():
            return ["finish", event.row, time, event.reason.value, list(event.token_ids)]


def unpack(packed: Sequence[Any], candidates: Iterable[Sequence[int]] = ()) -> DecodeEvent:
    """The inverse of `pack`. candidates: [position, token] of those that a verify has tried. Raises TraceError."""
    try:
        return _with_candidates([_unpack(packed)], [(0, *each) for each in candidates])[0]
    except _DAMAGE as error:
        raise TraceError(f"This event is damaged: {brief_text(str(error), 120)}.") from error


def _unpack(packed: Sequence[Any]) -> DecodeEvent:
    kind, row, time, *rest = packed
    row, time = _integer(row), _number_up_to(time, math.inf)
    match kind, rest:
        case "prefill", [prompt_tokens, fixed]:
            return Prefill(row, time, _integer(prompt_tokens), _unpack_fixed(fixed))
        case "denoise", [block, step, start, stop, fixed, pending]:
            waiting = tuple(Pending(_integer(at), _integer(token), _number_up_to(p)) for at, token, p in pending)
            span = map(_integer, (block, step, start, stop))
            return Denoise(row, time, *span, _unpack_fixed(fixed), waiting)
        case "commit", [block, start, stop, fixed]:
            return Commit(row, time, *map(_integer, (block, start, stop)), _unpack_fixed(fixed))
        case "verify", [block, start, stop, accepted, fixed]:
            return Verify(row, time, *map(_integer, (block, start, stop, accepted)), _unpack_fixed(fixed))
        case "edit", [start, tokens, changed]:
            held = tuple(None if token is None else _integer(token) for token in tokens)
            return Edit(row, time, _integer(start), held, tuple(map(_integer, changed)))
        case "finish", [reason, token_ids]:
            return Finish(row, time, FinishReason(reason), tuple(_integer(token) for token in token_ids))
    raise ValueError(f"an event of kind {kind!r} with {len(rest)} fields")


def _with_candidates(events: Sequence[DecodeEvent], packed: Iterable[Sequence[Any]]) -> tuple[DecodeEvent, ...]:
    """The events with the candidates of a file, each [number of the event, position, token]."""
    found: dict[int, list[tuple[int, int]]] = {}
    for entry in packed:
        number, position, token = map(_integer, entry)
        event = events[number] if 0 <= number < len(events) else None
        if not isinstance(event, Verify) or not event.start < position < event.stop:
            raise ValueError(f"a candidate at {position} that event {number} has not verified")
        found.setdefault(number, []).append((position, token))
    return tuple(
        replace(event, candidates=tuple(found[number])) if number in found else event
        for number, event in enumerate(events)
    )


def _pack_fixed(fixed: Iterable[Fixed]) -> list[Any]:
    packed = []
    for each in fixed:
        alternatives = [list(pair) for pair in each.alternatives]
        packed.append([each.position, each.token, each.confidence, each.reason.value, alternatives])
        if (logs := each.logprobs) is not None:
            tops = ([list(pair) for pair in top] for top in (logs.top, logs.top_processed))
            packed[-1].append([logs.logprob, logs.processed, *tops])
    return packed


def _unpack_fixed(packed: Iterable[Sequence[Any]]) -> tuple[Fixed, ...]:
    return tuple(
        Fixed(
            _integer(position),
            _integer(token),
            _number_up_to(confidence),
            Reason(reason),
            tuple((_integer(other), _number_up_to(p)) for other, p in alternatives),
            *map(_unpack_logprobs, logprobs),
        )
        for position, token, confidence, reason, alternatives, *logprobs in packed
    )


def _unpack_logprobs(packed: Sequence[Any]) -> TokenLogprobs:
    logprob, processed, *tops = packed
    top, top_processed = (tuple((_integer(token), _logarithm(p)) for token, p in pairs) for pairs in tops)
    return TokenLogprobs(_logarithm(logprob), _logarithm(processed), top, top_processed)


# -- checks of a file's content -------------------------------------------------------------------------

_MOST_POSITIONS = 1 << 20  # of an answer; limits the memory of a replay


def _integer(value: Any) -> int:
    if type(value) is not int:  # a bool is not allowed
        raise ValueError(f"{brief(value)} is not an integer")
    return value


def _number_up_to(value: Any, most: float = 1.0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError(f"{brief(value)} is not a number from 0 to {most:g}")
    return value


def _logarithm(value: Any) -> float:
    """Of a probability; rounding may put it just above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -math.inf < value <= 1e-5:
        raise ValueError(f"{brief(value)} is not the logarithm of a probability")
    return value


def _check_order(events: Sequence[DecodeEvent], prompt_tokens: int, whole: bool) -> None:
    """Raise ValueError for events that are not possible in this order, or that are too long for a replay."""
    if whole and not (events and isinstance(events[-1], Finish)):
        raise ValueError("its last event is no finish")
    reach = 0  # end of the canvas so far
    for number, event in enumerate(events, start=1):
        if isinstance(event, Finish):
            if number < len(events):
                raise ValueError("it continues after its finish")
            return
        if isinstance(event, Edit):
            end = event.start + len(event.tokens)
            if not 0 <= event.start <= reach or end > _MOST_POSITIONS:
                raise ValueError(f"an edit from {event.start} to {end} lies outside the answer")
            if not all(event.start <= position < end for position in event.changed):
                raise ValueError("an edit has changed what it does not hold")
            reach = end
            continue
        if not isinstance(event, Prefill):
            if not -prompt_tokens <= event.start < event.stop <= _MOST_POSITIONS or event.start > reach:
                raise ValueError(f"a block from {event.start} to {event.stop} lies outside the answer")
            reach = max(reach, event.stop)
        if isinstance(event, Verify) and not 0 <= event.accepted < event.stop - event.start:
            raise ValueError(f"{event.accepted} drafts were accepted of a block of {event.stop - event.start}")
        for each in (*event.fixed, *getattr(event, "pending", ())):
            if not 0 <= each.position <= reach:
                raise ValueError("a token lies outside the answer")
            reach = max(reach, each.position + 1)
