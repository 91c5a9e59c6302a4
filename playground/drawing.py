"""The style of the page's Plotly figures: axes, lines and colours.

A figure can be read on light and on dark pages: its background is transparent, and text and lines are grey. Each line
has its own colour, dash and symbol, and colour-blind readers can distinguish the colours.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from nbdiff_engine.evaluation.figure_style import COLOURS, DASHES, FONT, SYMBOLS

INK = "#7d8590"  # contrast above 3:1 on white and on #0b0f19
GRID = "rgba(128, 138, 150, 0.25)"
HEIGHT = 300  # pixels
MARKS_UP_TO = 40  # a line with more points has no symbols: they would hide it


def blank(x_title: str, y_title: str) -> go.Figure:
    """A figure with two axes and no data."""
    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "ticks": "",
        "automargin": True,
        "title": {"standoff": 8},
    }
    return go.Figure(
        layout={
            "template": None,
            "height": HEIGHT,
            "margin": {"l": 8, "r": 8, "t": 36, "b": 8},  # Gradio puts the label of a plot over its top
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 12, "color": INK},
            "hovermode": "closest",
            "hoverlabel": {"font": {"family": FONT, "size": 12}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": INK, "remove": ["lasso2d", "select2d", "autoScale2d"]},
            "legend": {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
            "showlegend": True,
            "xaxis": {**axis, "title": {"text": x_title, "standoff": 8}},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
        }
    )


def add_line(
    figure: go.Figure,
    number: int,
    name: str,
    x: Sequence[Any],
    y: Sequence[Any],
    hover: str,
    shape: str = "linear",
    text: Sequence[str] | None = None,
) -> None:
    """Add a line with the colour, dash and symbol of its number. The name is shown as plain text, not as markup."""
    name = _plain(name)
    figure.add_scatter(
        x=list(x),
        y=list(y),
        text=None if text is None else list(text),
        name=name,
        mode="lines+markers" if len(x) <= MARKS_UP_TO else "lines",
        line={
            "color": COLOURS[number % len(COLOURS)],
            "dash": DASHES[number % len(DASHES)],
            "width": 2,
            "shape": shape,
        },
        marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 6},
        hovertemplate=f"{name}: {hover}<extra></extra>",
    )


def said_if_empty(figure: go.Figure, sentence: str) -> go.Figure:
    """The figure; without data, a sentence in place of the numbers that Plotly would invent for its axes."""
    if not figure.data:
        middle = {"xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
        figure.add_annotation(text=sentence, showarrow=False, font={"size": 13}, **middle)
        figure.update_xaxes(showticklabels=False)
        figure.update_yaxes(showticklabels=False)
    return figure


def _plain(text: str) -> str:
    """A name without the HTML tags and the %{...} that Plotly would interpret."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")
