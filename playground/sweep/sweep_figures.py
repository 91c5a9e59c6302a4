"""The figures of a sweep: accuracy against tokens per forward; tokens per forward, speed and agreement with AR against
block size. Each point knows its row of the table, so that a click on it can be answered."""

from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from nbdiff_engine.evaluation.aup import aup
from playground.drawing import INK, add_line, blank
from playground.sweep.sweep_rows import TableRow, series_of

Spread = tuple[float, float | None, float | None]  # a value, and from where to where its interval goes

UNNAMED = "block diffusion"  # the name of the only series


def accuracy_against_tpf(rows: Sequence[TableRow]) -> go.Figure:
    """Accuracy in percent against tokens per forward: one line for each series, with its AUP in the legend.

    Without checked answers, the figure has no lines.
    """
    figure = blank("Tokens per forward", "Accuracy")
    for number, (name, line) in enumerate(series_of(rows).items()):
        points = [each for each in line if each.tpf is not None and each.accuracy is not None]
        points.sort(key=lambda each: each.tpf)
        if not points:
            continue
        score = _aup([(each.tpf, 100 * each.accuracy) for each in points])
        named = name or UNNAMED
        add_line(
            figure,
            number,
            named if score is None else f"{named} (AUP {score:.0f})",
            [each.tpf for each in points],
            [100 * each.accuracy for each in points],
            "%{y:.0f} % at %{x:.2f} tokens per forward, block %{text}",
            text=[each.setting for each in points],
        )
        figure.data[-1].mode = "lines+markers"
        _known(figure, rows, points)
        _error_bars(figure, [(each.accuracy, each.accuracy_low, each.accuracy_high) for each in points], 100)
    figure.update_yaxes(range=[-3, 103], ticksuffix=" %")
    return figure


def tokens_per_forward_against_block_size(rows: Sequence[TableRow]) -> go.Figure:
    """Tokens per forward against block size (logarithmic)."""
    figure = _against_block_size(rows, "Tokens per forward", lambda each: each.tpf, "%{y:.2f} tokens per forward")
    figure.update_yaxes(rangemode="tozero")
    return figure


def speed_against_block_size(rows: Sequence[TableRow]) -> go.Figure:
    """Output tokens per second against block size (logarithmic), with the middle half of the answers as bars; a
    horizontal line marks AR."""
    figure = _against_block_size(
        rows,
        "Output tokens/s",
        lambda each: each.tokens_per_second,
        "%{y:.0f} tokens/s",
        lambda each: (each.tokens_per_second, each.slowest_quarter, each.fastest_quarter),
    )
    figure.update_yaxes(rangemode="tozero")
    speeds = {each.model: each.tokens_per_second for each in rows if each.strategy == "ar"}
    for model, speed in speeds.items():
        if speed is not None:
            label = "AR" if len(speeds) == 1 else f"AR of {model}"
            figure.add_hline(
                y=speed,
                line={"dash": "dot", "width": 1, "color": INK},
                annotation={"text": label.replace("<", "&lt;"), "font": {"size": 11}},
                annotation_position="bottom right",
            )
    return figure


def agreement_against_block_size(rows: Sequence[TableRow]) -> go.Figure:
    """Share of answers with the same tokens as AR, in percent, against block size (logarithmic)."""
    figure = _against_block_size(
        rows,
        "Same text as AR",
        lambda each: None if each.same_as_ar is None else 100 * each.same_as_ar,
        "%{y:.0f} % the same as AR",
    )
    figure.update_yaxes(range=[-3, 103], ticksuffix=" %")
    return figure


def _against_block_size(
    rows: Sequence[TableRow],
    title: str,
    value: Callable[[TableRow], float | None],
    hover: str,
    spread: Callable[[TableRow], Spread] | None = None,
) -> go.Figure:
    figure = blank("Block size (tokens)", title)
    sizes = sorted({each.block_size for each in rows})
    for number, (name, line) in enumerate(series_of(rows).items()):
        points = [each for each in line if value(each) is not None]
        if points:
            places = ([each.block_size for each in points], [value(each) for each in points])
            add_line(figure, number, name or UNNAMED, *places, f"{hover}, block %{{x}}")
            _known(figure, rows, points)
            if spread is not None:
                _error_bars(figure, [spread(each) for each in points])
    words = ["1 = AR" if size == 1 and _has_ar(rows) else str(size) for size in sizes]
    figure.update_xaxes(type="log", tickmode="array", tickvals=sizes, ticktext=words)
    return figure


def _known(figure: go.Figure, rows: Sequence[TableRow], points: Sequence[TableRow]) -> None:
    """Give each point of the newest line the number of its row."""
    figure.data[-1].customdata = [rows.index(each) for each in points]


def _error_bars(figure: go.Figure, spreads: Sequence[Spread], factor: float = 1) -> None:
    """Bars from low to high at the points of the newest line; none where they are not known."""
    above = [None if high is None else factor * max(0.0, high - middle) for middle, _, high in spreads]
    below = [None if low is None else factor * max(0.0, middle - low) for middle, low, _ in spreads]
    line = figure.data[-1]
    line.error_y = {"array": above, "arrayminus": below, "thickness": 1.2, "width": 4, "color": line.line.color}


def _has_ar(rows: Sequence[TableRow]) -> bool:
    return any(each.strategy == "ar" for each in rows)


def _aup(points: Sequence[tuple[float, float]]) -> float | None:
    """Area under the curve of accuracy against tokens per forward; None for fewer than two points."""
    if len(points) < 2:
        return None
    return aup(list(points))
