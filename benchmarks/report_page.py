"""The page around the figures of an evaluation: tables, words, and one HTML file that asks nobody for anything."""

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from benchmarks.report_figures import accuracy_against_speed, accuracy_against_tpf, accuracy_by_domain
from benchmarks.report_words import setting_words, strategy_words
from benchmarks.run_files import Comparison, Run, Runs
from nbdiff_engine.evaluation.aup import MOST_LOST

PAGE = Path(__file__).resolve().parent / "report_page.html"
SLOT = re.compile(r"<!--(title|body|foot|plotly|figures)-->")

_INTERVAL = "Whiskers are 95 % intervals (Wilson) of the problems that were judged."


def report_html(runs: Runs) -> str:
    """The whole page. Everything that comes out of a file stays text."""
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
        "A line for each model, strategy and block size, over its thresholds; a star is AR, which makes one token a "
        f"forward. Up and to the right is better. {_INTERVAL}",
    )
    body += _figure(
        "accuracy-speed",
        "Accuracy against speed",
        f"The same settings, by the output tokens a second that were measured. {_per_second(runs)}",
    )
    hidden = sum(trace.visible == "legendonly" for trace in figures["accuracy-domain"].data)
    few = (
        " Shown is each model's best setting of every strategy; a click on a name in grey shows another."
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
    """JSON inside a script element, which ends at the first "<" that says so."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _figure(name: str, title: str, words: str) -> list[str]:
    return [
        f"<figure><h2>{escape(title)}</h2><p>{escape(words)}</p>",
        f'<div class="plot" id="{name}" role="img" aria-label="{escape(title)}; '
        'the table of settings has the figures"></div></figure>',
    ]


# -- words ------------------------------------------------------------------------------------------------


def _about(runs: Runs, name: str) -> str:
    run = runs.by_name[name]
    counts = ", ".join(f"{count:,} {domain}" for domain, count in run.problems.items())
    which = f"{name}: " if len(runs.by_name) > 1 else ""
    return escape(
        f"{which}{sum(run.problems.values()):,} problems ({counts}), {_together(run)}, answers of at most "
        f"{run.max_new_tokens} tokens."
    )


def _together(run: Run) -> str:
    return "one at a time" if run.batch_size == 1 else f"{run.batch_size} at a time"


def _per_second(runs: Runs) -> str:
    if all(run.batch_size == 1 for run in runs.by_name.values()):
        return "One prompt at a time, prefill left out."
    return "Of a batch these are the tokens of all its rows over its wall time, prefill left out."


def _notes(runs: Runs) -> list[str]:
    notes = []
    if not runs.same_problems:
        notes.append("These runs answered different problems: an accuracy of one says nothing about the other's.")
    if not runs.same_conditions:
        notes.append("These runs are of different machines or sizes of batch: their tokens/s cannot be compared.")
    for name, run in runs.by_name.items():
        notes += [
            f"{runs.model(name, model.name)}: not every answer was judged. {model.not_judged}"
            for model in run.models
            if model.not_judged is not None
        ]
    return [f'<p class="note">{escape(note)}</p>' for note in notes]


def _foot(runs: Runs) -> list[str]:
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
    """A table whose first `texts` columns are text, the others figures."""

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


def _aup_table(runs: Runs) -> list[str]:
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
        "The area under accuracy in percent against tokens per forward, in which lost accuracy weighs the more the "
        f"more is lost, measured from {bests}. A curve begins at its model's AR, where there is one; points more than "
        f"{MOST_LOST:g} points of accuracy below the least parallel one do not count.",
        ["model", "strategy", "settings that do not count", "block", "AUP", "points", "tokens per forward"],
        rows,
        3,
    )


def _comparison_table(runs: Runs) -> list[str]:
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
        "and Min), the problems that only one of the two got right, and the p of McNemar's exact test. Ratios below 1 "
        "of time, and above 1 of tokens/s, are faster.",
        ["this", "against", "points", "interval", "only this", "only that", "p", "time", "tokens/s", "same tokens"],
        [_compared(*each) for each in found],
        2,
    )


def _compared(model: str, baseline: str, each: Comparison) -> list[str]:
    interval = "-" if each.interval_points is None else " to ".join(f"{end:+.1f}" for end in each.interval_points)
    same = "-"
    if each.identical is not None and each.differences is not None:
        same = f"{each.identical} of {each.identical + len(each.differences)}"
    return [
        f"{model}, {setting_words(each.setting)}",
        f"{baseline}, {setting_words(each.baseline_setting)}",
        _or_dash(each.accuracy_points, "+.1f"),
        interval,
        str(each.only_this_right),
        str(each.only_baseline_right),
        _or_dash(each.mcnemar_p, ".3g"),
        _or_dash(each.seconds_ratio, ".2f", "x"),
        _or_dash(each.tokens_per_second_ratio, ".2f", "x"),
        same,
    ]


def _settings_table(runs: Runs) -> list[str]:
    rows = []
    for row in runs.rows:
        overall = row.result.overall
        interval = "-" if overall.interval is None else " to ".join(f"{100 * end:.1f}" for end in overall.interval)
        rows.append(
            [
                row.model,
                setting_words(row.result.setting),
                _or_dash(overall.accuracy, ".1%"),
                interval,
                str(overall.judged),
                _or_dash(overall.tokens_per_forward, ".2f"),
                _or_dash(overall.tokens_per_second, ".0f"),
                f"{overall.mean_output_tokens:.1f}",
                f"{overall.cut_by_length:.0%}",
            ]
        )
    return _table(
        "Settings",
        "Over all domains. Tokens are an answer's mean; cut is the share that the length limit ended.",
        ["model", "setting", "accuracy", "interval", "judged", "tokens per forward", "tokens/s", "tokens", "cut"],
        rows,
        2,
    )


def _or_dash(value: float | None, spec: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{spec}}{unit}"
