"""The figures of an evaluation's report, in plotly. The page sets the colours of text and grids, light or dark."""

from collections.abc import Callable, Sequence

import plotly.graph_objects as go

from benchmarks.report_words import setting_words, strategy_words
from benchmarks.run_files import ReportRow, SavedScores
from nbdiff_engine.evaluation.figure_style import COLOURS, DASHES, FONT, SYMBOLS
from nbdiff_engine.evaluation.table import or_dash

PATTERNS = ("", "/", ".", "x")

_SETTINGS_A_LINE = 3
_SMALLEST_RANGE = 8  # of the y axis, in percentage points
_MAX_BARS = 8  # settings whose bars are shown when the page opens


def accuracy_against_tpf(rows: Sequence[ReportRow]) -> go.Figure:
    """Accuracy with its 95 % interval against tokens per forward."""
    return _accuracy_against(rows, "Tokens per forward", lambda figures: figures.tokens_per_forward)


def accuracy_against_speed(rows: Sequence[ReportRow]) -> go.Figure:
    """Accuracy with its 95 % interval against output tokens per second."""
    return _accuracy_against(rows, "Output tokens/s", lambda figures: figures.tokens_per_second)


def accuracy_by_domain(rows: Sequence[ReportRow]) -> go.Figure:
    """Bars of accuracy in each domain, from zero. With many settings, the reader has to switch some of them on."""
    figure = _blank("", "Accuracy")
    shown = {id(row) for row in _shown_at_first(rows)}
    # Visible settings get the first colours. After the last colour, the colours repeat with another pattern.
    numbers = {id(row): number for number, row in enumerate(sorted(rows, key=lambda row: id(row) not in shown))}
    for row in rows:
        judged = {domain: own for domain, own in row.result.domains.items() if own.accuracy is not None}
        if not judged:
            continue
        own = list(judged.values())
        figure.add_bar(
            x=[plain(domain) for domain in judged],
            y=[100 * each.accuracy for each in own],
            error_y=_error_bars(own),
            name=f"{plain(row.model)}, {plain(setting_words(row.result.setting))}",
            marker={
                "color": COLOURS[numbers[id(row)] % len(COLOURS)],
                "pattern": {"shape": PATTERNS[numbers[id(row)] // len(COLOURS) % len(PATTERNS)]},
            },
            visible=True if id(row) in shown else "legendonly",
            hovertext=[_hover(row, each, domain) for domain, each in judged.items()],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.2, bargroupgap=0.06)
    figure.update_xaxes(type="category")
    figure.update_yaxes(range=[0, 104], ticksuffix=" %")
    return figure


def _accuracy_against(rows: Sequence[ReportRow], title: str, value: Callable[[SavedScores], float | None]) -> go.Figure:
    """A line for each model, strategy and block size. Colours show model and strategy; dashes and symbols the size."""
    figure = _blank(title, "Accuracy")
    lines: dict[tuple[str, str, int], list[ReportRow]] = {}
    for row in rows:
        if row.result.overall.accuracy is not None and value(row.result.overall) is not None:
            lines.setdefault(row.line, []).append(row)
    pairs = list(dict.fromkeys(line[:2] for line in lines))
    sizes = sorted({size for _, strategy, size in lines if strategy != "ar"})
    for line, points in lines.items():
        model, strategy, size = line
        points.sort(key=lambda row: value(row.result.overall))
        style = 0 if strategy == "ar" else sizes.index(size)
        name = f"{plain(model)}, {plain(strategy_words(strategy))}" + ("" if strategy == "ar" else f", block {size}")
        colour = COLOURS[pairs.index(line[:2]) % len(COLOURS)]
        own = [row.result.overall for row in points]
        figure.add_scatter(
            x=[value(each) for each in own],
            y=[100 * each.accuracy for each in own],
            error_y=_error_bars(own),
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": DASHES[style % len(DASHES)], "width": 2},
            marker={"symbol": "star" if strategy == "ar" else SYMBOLS[style % len(SYMBOLS)], "size": 9},
            hovertext=[_hover(row, row.result.overall) for row in points],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(range=_zoom([row.result.overall for own in lines.values() for row in own]), ticksuffix=" %")
    return figure


def _zoom(figures: Sequence[SavedScores]) -> list[float]:
    """The smallest range of accuracies, in percent, that contains every interval and a small margin."""
    ends = [100 * end for each in figures for end in each.interval or ()]
    if not ends:
        return [0, 104]
    low, high = min(ends), max(ends)
    room = max((high - low) * 0.08, (_SMALLEST_RANGE - (high - low)) / 2, 0)
    return [max(low - room, -2), min(high + room, 102)]


def _error_bars(figures: Sequence[SavedScores]) -> dict:
    intervals = [each.interval for each in figures]
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (high - each.accuracy) for each, (_, high) in zip(figures, intervals, strict=True)],
        "arrayminus": [100 * (each.accuracy - low) for each, (low, _) in zip(figures, intervals, strict=True)],
        "thickness": 1,
        "width": 3,
    }


def _hover(row: ReportRow, figures: SavedScores, domain: str | None = None) -> str:
    low, high = (100 * end for end in figures.interval)
    lines = [
        f"<b>{plain(row.model)}, {plain(strategy_words(row.strategy))}</b>" + (f", {plain(domain)}" if domain else ""),
        f"{100 * figures.accuracy:.1f} % right ({low:.1f} to {high:.1f}), {figures.judged} problems",
        f"{or_dash(figures.tokens_per_forward, '.2f')} tokens per forward, "
        f"{or_dash(figures.tokens_per_second, '.0f')} tokens/s",
    ]
    settings = [f"{plain(name)} {plain(value)}" for name, value in row.result.settings.items() if _is_set(value)]
    for start in range(0, len(settings), _SETTINGS_A_LINE):
        lines.append(", ".join(settings[start : start + _SETTINGS_A_LINE]))
    return "<br>".join(lines)


def _is_set(value: object) -> bool:
    return value is not None and value != [] and value is not False


def _shown_at_first(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """All rows if they are few; otherwise the best of each model and strategy, by accuracy and then by TPF."""
    if len(rows) <= _MAX_BARS:
        return list(rows)
    best: dict[tuple[str, str], ReportRow] = {}
    for row in rows:
        found = best.get(row.line[:2])
        if found is None or _rank(row) > _rank(found):
            best[row.line[:2]] = row
    return list(best.values())


def _rank(row: ReportRow) -> tuple[float, float]:
    overall = row.result.overall
    return overall.accuracy or 0.0, overall.tokens_per_forward or 0.0


def plain(text: object) -> str:
    """Text for plotly, which interprets some tags and %{...}: neither may come from a file."""
    safe = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(safe.replace("%{", "% {").split())


def _blank(x_title: str, y_title: str) -> go.Figure:
    axis = {"zeroline": False, "ticks": "", "automargin": True}
    return go.Figure(
        layout={
            "template": None,
            "height": 460,
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 13},
            "hovermode": "closest",
            "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
            "legend": {"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top"},
            "showlegend": True,
            "xaxis": {**axis, "title": {"text": x_title, "standoff": 8}},
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
        }
    )
