"""The page of a report, with figures, tables and explanations, as one HTML file that loads nothing."""

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from benchmarks.report_figures import accuracy_against_speed, accuracy_against_tpf, accuracy_by_domain
from benchmarks.report_words import setting_words, strategy_words
from benchmarks.run_files import SavedComparison, SavedRun, SavedRuns
from nbdiff_engine.evaluation.aup import MOST_LOST
from nbdiff_engine.evaluation.table import or_dash

PAGE = Path(__file__).resolve().parent / "report_page.html"
SLOT = re.compile(r"<!--(title|body|foot|plotly|figures)-->")

_INTERVAL = "Whiskers are 95 % intervals (Wilson) over the judged problems."


def report_html(runs: SavedRuns) -> str:
    """The whole page. All text from a file is escaped, so it cannot become HTML or a script."""
    rows = runs.rows
    figures = {
        "accuracy-tpf": accuracy_against_tpf(rows),
        "accuracy-speed": accuracy_against_speed(rows),
        "accuracy-domain": accuracy_by_domain(rows),
    }
    models = list(dict.fromkeys(model.name for run in runs.by_name.values() for model in run.models))
    title = f"Evaluation of {' and '.join(models)}" if len(models) < 4 else f"Evaluation of {len(models)} models"
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{_about(runs, name)}</p>" for name in runs.by_name), *_notes(runs)]
    body += _figure(
        "accuracy-tpf",
        "Accuracy against tokens per forward",
        "A line for each model, strategy and block size, over its thresholds. A star is AR, with one token per "
        f"forward. Points further up and to the right are better. {_INTERVAL}",
    )
    body += _figure(
        "accuracy-speed",
        "Accuracy against speed",
        f"The same settings against the measured output tokens per second. {_per_second(runs)}",
    )
    hidden = sum(trace.visible == "legendonly" for trace in figures["accuracy-domain"].data)
    few = (
        " The figure shows the best setting of each model and strategy; a click on a grey name shows another setting."
        if hidden
        else ""
    )
    body += _figure("accuracy-domain", "Accuracy by domain", f"{_INTERVAL}{few}")
    body += [*_aup_table(runs), *_comparison_table(runs), *_settings_table(runs)]
    slots = {
        "title": escape(title),
        "body": "\n".join(body),
        "foot": "\n".join(_foot(runs)),
        "plotly": get_plotlyjs(),
        "figures": _script({name: _plain_json(figure) for name, figure in figures.items()}),
    }
    return SLOT.sub(lambda slot: slots[slot[1]], PAGE.read_text(encoding="utf-8"))


def _plain_json(figure: go.Figure) -> dict:
    return json.loads(figure.to_json())


def _script(value: object) -> str:
    """JSON for a script element. Every "<" is escaped, because "</script" in a text would end the element."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _figure(name: str, title: str, words: str) -> list[str]:
    return [
        f"<figure><h2>{escape(title)}</h2><p>{escape(words)}</p>",
        f'<div class="plot" id="{name}" role="img" aria-label="{escape(title)}; '
        'the table of settings has the figures"></div></figure>',
    ]


# -- explanations -----------------------------------------------------------------------------------------


def _about(runs: SavedRuns, name: str) -> str:
    run = runs.by_name[name]
    counts = ", ".join(f"{count:,} {domain}" for domain, count in run.problems.items())
    which = f"{name}: " if len(runs.by_name) > 1 else ""
    return escape(
        f"{which}{sum(run.problems.values()):,} problems ({counts}), {_batch_words(run)}, answers of at most "
        f"{run.max_new_tokens} tokens."
    )


def _batch_words(run: SavedRun) -> str:
    return "one at a time" if run.batch_size == 1 else f"{run.batch_size} at a time"


def _per_second(runs: SavedRuns) -> str:
    if all(run.batch_size == 1 for run in runs.by_name.values()):
        return "One prompt at a time, without prefill."
    return "For a batch these are the tokens of all its rows over its wall time, without prefill."


def _notes(runs: SavedRuns) -> list[str]:
    notes = []
    if not runs.same_problems:
        notes.append("These runs answered different problems: their accuracies cannot be compared.")
    if not runs.same_conditions:
        notes.append("These runs used different machines or batch sizes: their tokens/s cannot be compared.")
    for name, run in runs.by_name.items():
        notes += [
            f"{runs.model(name, model.name)}: not every answer was judged. {model.not_judged}"
            for model in run.models
            if model.not_judged is not None
        ]
    return [f'<p class="note">{escape(note)}</p>' for note in notes]


def _foot(runs: SavedRuns) -> list[str]:
    lines = []
    for name, run in runs.by_name.items():
        machine = run.machine
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        lines.append(
            f"{name}: {machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores{gpu}; "
            f"torch {machine.get('torch', '?')}, transformers {machine.get('transformers', '?')}, "
            f"Python {machine.get('python', '?')}; {machine.get('date', 'no date')}"
        )
        lines += [
            f"{runs.model(name, model.name)}: {model.parameters / 1e6:,.1f}M parameters, {model.dtype}, "
            f"{model.device}, {model.threads} thread{'s' if model.threads != 1 else ''}"
            for model in run.models
        ]
    lines.append(f"Drawn by benchmarks/report.py with plotly.js {get_plotlyjs_version()}.")
    return [f"<p>{escape(line)}</p>" for line in lines]


# -- tables -----------------------------------------------------------------------------------------------


def _table(title: str, words: str, head: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """A table. Its first `texts` columns are text, the others are figures."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = (' class="text"' if at < texts else "" for at in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds)) + "</tr>"

    return [
        f"<h2>{escape(title)}</h2><p>{escape(words)}</p>",
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table>',
        f"<thead>{line(head, 'th')}</thead><tbody>",
        *(line(row, "td") for row in rows),
        "</tbody></table></div>",
    ]


def _aup_table(runs: SavedRuns) -> list[str]:
    curves = runs.curves()
    if not curves:
        return []
    bests = ", ".join(f"{best:.1f} %" for best in dict.fromkeys(curve.best for curve in curves))
    rows = []
    for curve in curves:
        kept = [point for point in curve.points if point.counts]
        left = "; ".join(setting_words(point.setting, curve.block_size) for point in curve.points if not point.counts)
        size = "all" if curve.block_size is None else str(curve.block_size)
        span = " to ".join(dict.fromkeys(f"{point.tokens_per_forward:.2f}" for point in (kept[0], kept[-1])))
        rows.append(
            [
                curve.model,
                strategy_words(curve.strategy),
                left or "-",
                size,
                f"{curve.aup:.1f}",
                f"{len(kept)} of {len(curve.points)}",
                span,
            ]
        )
    return _table(
        "AUP",
        "The area under the curve of accuracy in percent against tokens per forward. The more accuracy a point loses "
        f"relative to {bests}, the less it weighs. A curve begins at its model's AR, if it has one. A point does not "
        f"count if its accuracy is more than {MOST_LOST:g} points below that of the least parallel point.",
        ["model", "strategy", "settings that do not count", "block", "AUP", "points", "tokens per forward"],
        rows,
        3,
    )


def _comparison_table(runs: SavedRuns) -> list[str]:
    found = [
        (runs.model(name, each.model), runs.model(name, each.baseline_model), each)
        for name, run in runs.by_name.items()
        for each in run.comparisons
    ]
    if not found:
        return []
    return _table(
        "Paired comparisons",
        "On the same problems: the difference of the accuracies in percentage points with its 95 % interval (Agresti "
        "and Min), the number of problems that only one of the two solved, and the p-value of McNemar's exact test. "
        "A time ratio below 1 or a tokens/s ratio above 1 means faster.",
        ["this", "against", "points", "interval", "only this", "only that", "p", "time", "tokens/s", "same tokens"],
        [_compared(*each) for each in found],
        2,
    )


def _compared(model: str, baseline: str, each: SavedComparison) -> list[str]:
    interval = "-" if each.interval_points is None else " to ".join(f"{end:+.1f}" for end in each.interval_points)
    same = "-"
    if each.identical is not None and each.differences is not None:
        same = f"{each.identical} of {each.identical + len(each.differences)}"
    return [
        f"{model}, {setting_words(each.setting)}",
        f"{baseline}, {setting_words(each.baseline_setting)}",
        or_dash(each.accuracy_points, "+.1f"),
        interval,
        str(each.only_this_right),
        str(each.only_baseline_right),
        or_dash(each.mcnemar_p, ".3g"),
        or_dash(each.seconds_ratio, ".2f", "x"),
        or_dash(each.tokens_per_second_ratio, ".2f", "x"),
        same,
    ]


def _settings_table(runs: SavedRuns) -> list[str]:
    rows = []
    for row in runs.rows:
        overall = row.result.overall
        interval = "-" if overall.interval is None else " to ".join(f"{100 * end:.1f}" for end in overall.interval)
        rows.append(
            [
                row.model,
                setting_words(row.result.setting),
                or_dash(overall.accuracy, ".1%"),
                interval,
                str(overall.judged),
                or_dash(overall.tokens_per_forward, ".2f"),
                or_dash(overall.tokens_per_second, ".0f"),
                f"{overall.mean_output_tokens:.1f}",
                f"{overall.cut_by_length:.0%}",
            ]
        )
    return _table(
        "Settings",
        "Over all domains. Tokens: mean tokens of an answer. Cut: the share of answers that the length limit ended.",
        ["model", "setting", "accuracy", "interval", "judged", "tokens per forward", "tokens/s", "tokens", "cut"],
        rows,
        2,
    )
