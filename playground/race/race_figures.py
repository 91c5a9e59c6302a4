"""The Plotly figures of a race, drawn from the traces of its lanes. Pure functions."""

from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from nbdiff_engine.trace.events import Commit, DecodeEvent, Denoise, Edit, Finish, Fixed, Prefill, Reason, Verify
from playground.drawing import COLOURS, MARKS_UP_TO, SYMBOLS, add_line, blank
from playground.race.race_file import RaceLane

_FORWARDS = {Denoise: "denoise", Commit: "commit", Verify: "verify"}  # with their names in the figures


def tokens_over_time(lanes: Sequence[RaceLane]) -> go.Figure:
    """Fixed output tokens against decode time in seconds, prefill included: one step line for each lane.

    A token counts from the forward that fixes it; a draft token counts when it is accepted. Tokens after the end of the
    answer do not count, so a line ends at the number of output tokens.
    """
    figure = blank("Decode time", "Output tokens")
    for number, lane in enumerate(lanes):
        times, counts = _fixed_over_time(lane.trace.events)
        add_line(figure, number, lane.name, times, counts, "%{y} tokens at %{x:.3f} s", shape="hv")
    figure.update_xaxes(rangemode="tozero", ticksuffix=" s")
    return figure


def unmasked_per_step(lanes: Sequence[RaceLane]) -> go.Figure:
    """Output tokens that each forward fixes, against its number. The prefill does not count as a forward.

    Symbols of commits and verifications are hollow, those of denoise passes filled. A draft token counts in the
    verification that accepts it.
    """
    figure = blank("Forward", "Tokens fixed")
    for number, lane in enumerate(lanes):
        kinds, counts = _fixed_by_forward(lane.trace.events)
        forwards = list(range(1, len(counts) + 1))
        add_line(figure, number, lane.name, forwards, counts, "%{y} fixed by forward %{x}, %{text}", text=kinds)
        symbol = SYMBOLS[number % len(SYMBOLS)]
        figure.data[-1].update(
            mode="lines+markers",
            line={"width": 1},
            marker={
                "size": 7 if len(counts) <= 3 * MARKS_UP_TO else 4,
                "symbol": [symbol if kind == "denoise" else f"{symbol}-open" for kind in kinds],
                "opacity": 1,
            },
        )
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(rangemode="tozero", tickformat="d")
    return figure


def confidence_map(lane: RaceLane) -> go.Figure:
    """The confidence at each output position (x) in each forward (y, the first on top).

    Confidences are from 0 to 1; a position that a forward did not predict is blank. A ring marks the forward that fixed
    the final token. Forward 0 is the prefill. Positions of the prompt and after the end of the answer are left out.
    """
    events = lane.trace.events
    width = _width(events)
    rows: list[list[float | None]] = []
    fixed_at: dict[int, int] = {}
    for event in events:
        if isinstance(event, Edit):
            left = _placed(event) - set(event.changed)
            fixed_at = {at: row for at, row in fixed_at.items() if at < event.start or at in left}
            continue
        if isinstance(event, Finish):
            continue
        if not isinstance(event, Prefill) or not rows:
            rows.append([None] * width)
        row = rows[-1]
        predicted = [*event.pending, *event.fixed] if isinstance(event, Denoise) else event.fixed
        for each in predicted:
            if 0 <= each.position < width:
                row[each.position] = each.confidence
        for each in event.fixed:
            if 0 <= each.position < width and each.reason is not Reason.DRAFT:
                fixed_at[each.position] = len(rows) - 1
    first = 0 if events and isinstance(events[0], Prefill) else 1
    figure = blank("Output position", "Forward")
    numbers = [first + index for index in range(len(rows))]
    figure.add_heatmap(
        z=rows,
        y=numbers,
        zmin=0,
        zmax=1,
        colorscale="Cividis",  # readable for colour-blind people and in greyscale
        colorbar={"title": {"text": "Confidence", "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 1},
        hoverongaps=False,
        hovertemplate="position %{x}, forward %{y}: %{z:.0%}<extra></extra>",
    )
    at = sorted(fixed_at)
    figure.add_scatter(
        x=at,
        y=[first + fixed_at[position] for position in at],
        mode="markers",
        name="fixed here",
        marker={"symbol": "circle-open", "size": 5, "color": COLOURS[4], "line": {"width": 1.5}},
        hoverinfo="skip",
    )
    figure.update_yaxes(autorange="reversed", tickformat="d", showgrid=False)
    figure.update_xaxes(tickformat="d", showgrid=False)
    figure.update_layout(hovermode="closest", showlegend=True)
    return figure


# -- counts -----------------------------------------------------------------------------------------------


def _fixed(event: DecodeEvent) -> Sequence[Fixed]:
    """The tokens that an event fixed. An edit or a finish is not a forward and fixes none."""
    return () if isinstance(event, Edit | Finish) else event.fixed


def _placed(edit: Edit) -> set[int]:
    """The positions, from the start of the edit on, that have a token after it."""
    return {edit.start + offset for offset, token in enumerate(edit.tokens) if token is not None}


def _width(events: Sequence[DecodeEvent]) -> int:
    """The number of output tokens; of an unfinished answer, 1 + its last fixed position."""
    if events and isinstance(events[-1], Finish):
        return len(events[-1].token_ids)
    return 1 + max((each.position for event in events for each in _fixed(event)), default=-1)


def _counts_after(events: Sequence[DecodeEvent]) -> Iterator[tuple[DecodeEvent, int]]:
    """Each event, with the number of fixed output tokens after it."""
    width = _width(events)
    at: set[int] = set()  # positions with a final token
    for event in events:
        if isinstance(event, Edit):
            at = {position for position in at if position < event.start}
            at |= {position for position in _placed(event) if 0 <= position < width}
        elif isinstance(event, Finish):
            at = set(range(width))
        for each in _fixed(event):
            if 0 <= each.position < width and each.reason is not Reason.DRAFT:
                at.add(each.position)
        yield event, len(at)


def _fixed_over_time(events: Sequence[DecodeEvent]) -> tuple[list[float], list[int]]:
    times, counts = [0.0], [0]
    for event, count in _counts_after(events):
        times.append(event.time)
        counts.append(count)
    return times, counts


def _fixed_by_forward(events: Sequence[DecodeEvent]) -> tuple[list[str], list[int]]:
    """The kind of each forward, and the number of tokens that it fixed."""
    kinds, counts, before = [], [], 0
    for event, count in _counts_after(events):
        if type(event) in _FORWARDS:
            kinds.append(_FORWARDS[type(event)])
            counts.append(count - before)
        before = count
    return kinds, counts
