"""The figures of a sweep: accuracy against tokens per forward; speed and agreement with AR against block size."""

from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from nbdiff_engine.evaluation.aup import aup
from playground.drawing import INK, add_line, blank
from playground.sweep.sweep import TableRow, series_of

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
    figure.update_yaxes(range=[-3, 103], ticksuffix=" %")
    return figure


def speed_against_block_size(rows: Sequence[TableRow]) -> go.Figure:
    """Output tokens per second against block size (logarithmic); a horizontal line marks AR."""
    figure = _against_block_size(rows, "Output tokens/s", lambda each: each.tokens_per_second, "%{y:.0f} tokens/s")
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
    rows: Sequence[TableRow], title: str, value: Callable[[TableRow], float | None], hover: str
) -> go.Figure:
    figure = blank("Block size (tokens)", title)
    sizes = sorted({each.block_size for each in rows})
    for number, (name, line) in enumerate(series_of(rows).items()):
        points = [(each.block_size, value(each)) for each in line]
        points = [(size, height) for size, height in points if height is not None]
        if points:
            add_line(figure, number, name or UNNAMED, *zip(*points), f"{hover}, block %{{x}}")
    words = ["1 = AR" if size == 1 and _has_ar(rows) else str(size) for size in sizes]
    figure.update_xaxes(type="log", tickmode="array", tickvals=sizes, ticktext=words)
    return figure


def _has_ar(rows: Sequence[TableRow]) -> bool:
    return any(each.strategy == "ar" for each in rows)


def _aup(points: Sequence[tuple[float, float]]) -> float | None:
    """Area under the curve of accuracy against tokens per forward; None for fewer than two points."""
    if len(points) < 2:
        return None
    return aup(list(points))
