"""The figures of training: losses, learning rate, memory, held-out losses and probes, of one run or of several.

Pure functions of the logs of a run. A long run is reduced to MOST_POINTS points, always with the last step.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import plotly.graph_objects as go

from playground.drawing import INK, add_line, blank, said_if_empty
from playground.training_tab.x_axis import STEPS, XAxis
from training.recipe.block_schedule import BlockGrowth
from training.run.log_lines import HeldOutEvaluation, Probe, StepFigures

Line = TypeVar("Line")
Compared = Literal["loss_mdm", "loss_ar", "block_size"]  # fields of StepFigures

NO_STEP = "There is no step yet."
NOT_LOGGED = "This run did not log its memory."
NOT_MEASURED = "None of these runs measures it."
MOST_POINTS = 400  # per line of a figure
_HEIGHT = 260  # pixels
_NATS = "nats per token"
_MOST_PHASES = 40  # more would be a grey surface
_RIGHT = {"overlaying": "y", "side": "right", "showgrid": False, "zeroline": False}  # a second y axis
_SHARES = 10_000  # steps of a run whose shares are shown
_BEYOND = 1.25  # how far the figure goes beyond the step where the last size begins, if the end is not known


def growth(blocks: BlockGrowth | None, max_steps: int | None) -> go.Figure:
    """The planned block size over a run.

    blocks: None: an AR model, with blocks of one token. max_steps: None: not known before the run starts; the figure
    then shows the share of the run, or the steps where the sizes begin if the recipe gives these.
    """
    in_steps = blocks is not None and blocks.in_steps
    shares = max_steps is None and not in_steps
    if shares:
        total, title = _SHARES, "Share of the run (%)"
    elif max_steps is None:
        total, title = int(_BEYOND * blocks.starts[-1]) + 1, "Step, of a run that ends after its epochs"
    else:
        total, title = max_steps, "Step"
    phases = [(0, total, 1)] if blocks is None else blocks.over(total).phases(total)
    sizes = [size for _, _, size in phases] + [phases[-1][2]]
    figure = _figure(title, "Block size (tokens)", 200)
    if shares:
        ends = [100 * first / total for first, _, _ in phases] + [100]
        hover = "blocks of %{y} from %{x:.3g} % of the run"
    else:
        ends = [first + 1 for first, _, _ in phases] + [total]
        hover = "blocks of %{y} from step %{x}"
    add_line(figure, 0, "Block size", ends, sizes, hover, shape="hv")
    figure.data[-1].update(fill="tozeroy", fillcolor="rgba(31, 135, 204, 0.12)", mode="lines")
    _sized(figure, sizes)
    figure.update_xaxes(range=[0, ends[-1] * 1.01])
    figure.update_layout(showlegend=False)
    return figure


def losses(metrics: Sequence[StepFigures], log: bool = False, x: XAxis = STEPS, smooth: bool = False) -> go.Figure:
    """The MDM loss and the AR loss of each step, over the phases of the block growth. smooth: as running means."""
    figure = _figure(x.title, f"Loss ({_NATS})")
    shown = thinned(metrics)
    # With blocks of one token no token is masked. The log then has an MDM loss of 0, which is not a measured loss.
    mdm = [(x.at(line.step), line.loss_mdm) for line in shown if line.loss_mdm]
    ar = [(x.at(line.step), line.loss_ar) for line in shown if line.loss_ar is not None]
    for number, (name, points) in enumerate((("Masked tokens (MDM)", mdm), ("Next tokens (AR)", ar))):
        if points:
            places, values = zip(*points)
            add_line(figure, number, name, places, smoothed(values) if smooth else values, f"%{{y:.3f}} {x.hover}")
            figure.data[-1].mode = "lines"
    return said_if_empty(_phased(_logged(figure, log), metrics, x), NO_STEP)


def rate(metrics: Sequence[StepFigures], x: XAxis = STEPS) -> go.Figure:
    """The learning rate and the norm of the gradient of each step."""
    figure = _figure(x.title, "Learning rate")
    shown = thinned(metrics)
    if shown:
        places, rates = [x.at(line.step) for line in shown], [line.lr for line in shown]
        add_line(figure, 0, "Learning rate", places, rates, f"%{{y:.3g}} {x.hover}")
        figure.data[-1].mode = "lines"
    norms = [(x.at(line.step), line.gradient_norm) for line in shown if line.gradient_norm is not None]
    figure.update_yaxes(tickformat=".1e", rangemode="tozero")
    if norms:
        add_line(figure, 1, "Gradient norm", *zip(*norms), f"%{{y:.3g}} {x.hover}")
        figure.data[-1].update(mode="lines", yaxis="y2")
        figure.update_layout(yaxis2={**_RIGHT, "title": "Gradient norm", "rangemode": "tozero"})
    return said_if_empty(figure, NO_STEP)


def memory(metrics: Sequence[StepFigures], x: XAxis = STEPS) -> go.Figure:
    """The memory of a run's main process, and of its GPU if it has one, with the GPU's use.

    A run of an older version logged only the peak.
    """
    figure = _figure(x.title, "Memory (GB)")
    shown = thinned(metrics)
    with_gpu = any(line.gpu_memory is not None for line in shown)
    kinds: tuple[tuple[str, Callable[[StepFigures], int | None]], ...] = (
        ("RAM", lambda line: line.process_memory),
        ("GPU, held by PyTorch", lambda line: line.gpu_memory),
        ("GPU, peak of tensors" if with_gpu else "Peak", lambda line: line.peak_memory),
    )
    for number, (name, value) in enumerate(kinds):
        points = [(x.at(line.step), found / 1e9) for line in shown if (found := value(line)) is not None]
        if points:
            add_line(figure, number, name, *zip(*points), f"%{{y:.3g}} GB {x.hover}")
            figure.data[-1].mode = "lines"
    figure.update_yaxes(rangemode="tozero")
    used = [(x.at(line.step), line.gpu_use) for line in shown if line.gpu_use is not None]
    if used:
        add_line(figure, len(kinds), "GPU use", *zip(*used), f"%{{y:.0f}} % {x.hover}")
        figure.data[-1].update(mode="lines", yaxis="y2")
        figure.update_layout(yaxis2={**_RIGHT, "title": "GPU use", "range": [0, 103], "ticksuffix": " %"})
    return said_if_empty(figure, NOT_LOGGED if shown else NO_STEP)


def held_out(
    evaluations: Sequence[HeldOutEvaluation], metrics: Sequence[StepFigures] = (), x: XAxis = STEPS
) -> go.Figure:
    """The held-out MDM loss, one line for each block size; at block size 1, the AR loss. For a draft adapter, its
    acceptance. metrics: of the run, whose phases are shaded."""
    if any(line.acceptance is not None for line in evaluations):
        return _phased(acceptance(evaluations, x), metrics, x)
    figure = _figure(x.title, f"Loss ({_NATS})")
    shown = thinned(evaluations)
    sizes = sorted({size for line in evaluations for size in line.losses})
    for number, size in enumerate(sizes):
        found = [(x.at(line.step), line.losses[size]) for line in shown if size in line.losses]
        points = [(place, each.loss_ar if size == 1 else each.loss_mdm) for place, each in found]
        points = [(place, loss) for place, loss in points if loss is not None]
        if points:
            name = "1 = AR" if size == 1 else f"blocks of {size}"
            add_line(figure, number, name, *zip(*points), f"%{{y:.3f}} {x.hover}")
            figure.data[-1].mode = "lines+markers"
    figure.update_yaxes(rangemode="nonnegative")
    return said_if_empty(_phased(figure, metrics, x), "Nothing is measured yet.")


def acceptance(evaluations: Sequence[HeldOutEvaluation], x: XAxis = STEPS) -> go.Figure:
    """The share of right drafts of a draft adapter, one line for each offset, and the mean accepted run."""
    figure = _figure(x.title, "Right drafts")
    shown = thinned([line for line in evaluations if line.acceptance is not None])
    for k in range(1, max((len(line.acceptance.by_offset) for line in shown), default=0) + 1):
        points = [(x.at(line.step), line.acceptance.by_offset[k - 1]) for line in shown]
        points = [(place, 100 * share) for place, share in points if share is not None]
        if points:
            add_line(figure, k, f"draft {k}", *zip(*points), f"%{{y:.0f}} % {x.hover}")
    figure.update_yaxes(ticksuffix=" %", rangemode="tozero")
    add_line(
        figure,
        0,
        "Accepted run",
        [x.at(line.step) for line in shown],
        [line.acceptance.accepted_run for line in shown],
        f"%{{y:.2f}} drafts {x.hover}",
    )
    figure.data[-1].yaxis = "y2"
    figure.update_layout(yaxis2={**_RIGHT, "rangemode": "tozero", "title": "Accepted run"})
    for trace in figure.data:
        trace.mode = "lines+markers"
    return figure


def probed(probes: Sequence[Probe], at: int | None = None) -> go.Figure:
    """Tokens per forward and accuracy of the probes over the steps. at: the step to mark with a vertical line."""
    figure = _figure("Step", "Tokens per forward")
    shown = thinned(probes)
    steps, tokens = [probe.step for probe in shown], [probe.tokens_per_forward for probe in shown]
    add_line(figure, 0, "Tokens per forward", steps, tokens, "%{y:.2f} at step %{x}")
    judged = [probe for probe in shown if probe.accuracy is not None]
    if judged:
        values = [100 * probe.accuracy for probe in judged]
        add_line(figure, 1, "Accuracy", [probe.step for probe in judged], values, "%{y:.0f} % at step %{x}")
        figure.data[-1].yaxis = "y2"
        figure.update_layout(yaxis2={**_RIGHT, "range": [-3, 103], "ticksuffix": " %"})
    for trace in figure.data:
        trace.mode = "lines+markers"
    figure.update_yaxes(rangemode="tozero", selector={"overlaying": None})
    if at is not None:
        figure.add_vline(x=at, line={"dash": "dot", "width": 1, "color": INK})
    return figure


def overlaid(runs: Mapping[str, Sequence[StepFigures]], key: Compared, title: str, log: bool = False) -> go.Figure:
    """One figure of several runs, one line for each run. runs: metrics by name of the run."""
    figure = _figure("Step", title)
    for number, (name, metrics) in enumerate(runs.items()):
        points = [(line.step, value) for line in thinned(metrics) if (value := getattr(line, key))]
        if points:
            add_line(figure, number, name, *zip(*points), "%{y:.4g} at step %{x}")
            figure.data[-1].mode = "lines"
            figure.data[-1].line.shape = "hv" if key == "block_size" else "linear"
    return said_if_empty(_logged(figure, log), NOT_MEASURED)


def overlaid_points(runs: Mapping[str, Sequence[tuple[int, float]]], title: str) -> go.Figure:
    """One figure of several runs with few points, (step, value). runs: by name; a run without points has no line."""
    figure = _figure("Step", title)
    for number, (name, points) in enumerate(runs.items()):
        if points:
            add_line(figure, number, name, *zip(*points), "%{y:.4g} at step %{x}")
            figure.data[-1].mode = "lines+markers"
    figure.update_yaxes(rangemode="tozero")
    return said_if_empty(figure, NOT_MEASURED)


def smoothed(values: Sequence[float]) -> list[float]:
    """Running means in which a value's weight falls by a tenth with each later one, without the pull to zero at the
    start that a plain exponential mean has."""
    found, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = 0.9 * total + value, 0.9 * weight + 1
        found.append(total / weight)
    return found


def phases(metrics: Sequence[StepFigures]) -> list[tuple[int, int, int]]:
    """(first step, last step, block size) of each phase of the block growth."""
    found: list[tuple[int, int, int]] = []
    for line in metrics:
        if line.block_size is None:
            continue
        if found and found[-1][2] == line.block_size:
            found[-1] = (found[-1][0], line.step, line.block_size)
        else:
            found.append((line.step, line.step, line.block_size))
    return found


def _phased(figure: go.Figure, metrics: Sequence[StepFigures], x: XAxis) -> go.Figure:
    """Shade every other phase of the block growth, and write its block size at the top."""
    found = phases(metrics)
    if len(found) < 2 or len(found) > _MOST_PHASES:
        return figure
    shapes, labels = [], []
    for number, (first, last, size) in enumerate(found):
        end = found[number + 1][0] if number + 1 < len(found) else last
        left, right = x.at(first if number else 0), x.at(end)
        if number % 2:
            shape = {"type": "rect", "xref": "x", "yref": "paper", "x0": left, "x1": right, "y0": 0, "y1": 1}
            shapes.append({**shape, "fillcolor": "rgba(128, 138, 150, 0.13)", "line": {"width": 0}, "layer": "below"})
        text = f"block size {size}" if number == 0 and (right - left) > 0.2 * x.at(found[-1][1]) else str(size)
        place = {"x": left, "y": 1, "xref": "x", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        labels.append({**place, "text": text, "showarrow": False, "font": {"size": 10}})
    figure.update_layout(shapes=shapes, annotations=labels)
    return figure


def thinned(lines: Sequence[Line]) -> list[Line]:
    """At most MOST_POINTS lines at even distances, with the first and the last one."""
    if len(lines) <= MOST_POINTS:
        return list(lines)
    last = len(lines) - 1
    return [lines[round(place * last / (MOST_POINTS - 1))] for place in range(MOST_POINTS)]


def _figure(x_title: str, y_title: str, height: int = _HEIGHT) -> go.Figure:
    figure = blank(x_title, y_title)
    # uirevision: a constant value keeps the visitor's zoom when points are added.
    figure.update_layout(height=height, uirevision="kept", margin={"l": 8, "r": 8, "t": 12, "b": 8})
    figure.update_xaxes(rangemode="tozero")
    return figure


def _sized(figure: go.Figure, sizes: Sequence[int]) -> None:
    """A linear axis from 0 whose ticks are the block sizes; without sizes whose labels would overlap."""
    largest = max(sizes, default=1)
    ticks = [largest]
    for size in sorted(set(sizes), reverse=True):
        if ticks[-1] - size >= largest / 10:  # the height of a label, in a figure of 200 pixels
            ticks.append(size)
    ticks.reverse()
    figure.update_yaxes(tickmode="array", tickvals=ticks, range=[0, largest * 1.08])


def _logged(figure: go.Figure, log: bool) -> go.Figure:
    figure.update_yaxes(type="log" if log else "linear", **({} if log else {"rangemode": "tozero"}))
    if log:
        figure.update_yaxes(dtick="D2", minor={"showgrid": False})
    return figure
