"""How every figure of the page looks, in Plotly: its axes, its lines, its colours.

A figure is read on light and on dark pages alike: its background is transparent, words and lines are mid-grey,
colour-blind people can tell the colours apart, and a dash and a symbol say the same as a colour.
"""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

# Okabe and Ito's colours, the blue a little lighter for dark pages, and a dash and a symbol for each.
COLOURS = ("#1F87CC", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
INK = "#7d8590"  # contrast above 3:1 on white and on #0b0f19
GRID = "rgba(128, 138, 150, 0.25)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
HEIGHT = 300  # pixels
MARKS_UP_TO = 40  # points of a line: with more, symbols would hide it


def blank(x_title: str, y_title: str) -> go.Figure:
    """A figure with nothing in it but its two axes."""
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
            "margin": {"l": 8, "r": 8, "t": 36, "b": 8},  # Gradio lays a plot's label over its top
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
    """A line with the colour, dash and symbol of its number. Its name is shown as it is, never as markup."""
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


def _plain(text: str) -> str:
    """Text for Plotly, which reads a few tags and %{...} in what it is given: neither may come out of a name."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")
