"""An evaluation as plain text: a section for each model with its paired comparisons, and the curves at the end."""

import statistics
from collections import Counter
from collections.abc import Sequence

from nbdiff_engine.evaluation.aup import MOST_LOST
from nbdiff_engine.evaluation.curves import Curve
from nbdiff_engine.evaluation.report import AnswerFigures, Comparison, Evaluation, ModelReport

OVERALL = "all"  # the figures over every domain


def table(evaluation: Evaluation) -> str:
    """The text: a section for each model, with its paired comparisons at the end, and the curves after all models."""
    about = ", ".join(f"{count} {domain}" for domain, count in evaluation.problems.items())
    size = evaluation.batch_size
    together = "one at a time" if size == 1 else f"{size} at a time"
    machine = evaluation.machine
    lines = [
        f"{sum(evaluation.problems.values())} prompts ({about}), {together}, "
        f"answers of at most {evaluation.max_new_tokens} tokens",
        f"{machine.cpu}, torch {machine.torch}, {machine.date}",
    ]
    if size > 1:
        lines.append(f"tokens/s: {evaluation.definitions.tokens_per_second}")
    for report in evaluation.models:
        own = [each for each in evaluation.comparisons if each.model == report.name]
        lines += ["", *_model_lines(report, own)]
    if evaluation.curves:
        lines += ["", *_curve_lines(evaluation.curves)]
    return "\n".join(lines)


def _model_lines(report: ModelReport, comparisons: Sequence[Comparison]) -> list[str]:
    threads = f"{report.threads} thread{'s' if report.threads > 1 else ''}"
    lines = [f"{report.name}: {report.parameters / 1e6:.1f}M parameters, {report.dtype}, {report.device}, {threads}"]
    names = [OVERALL, *(domain for each in report.results for domain in each.domains)]
    width = max(map(len, names))
    head = f"{'':{width}} {'n':>5} {'accuracy':>9} {'95 % interval':>14} {'TPF':>6} "
    head += f"{'tokens/s':>9} {'tokens':>7} {'cut':>5}"
    for result in report.results:
        drafts = "" if result.overall.drafted is None else f" {'accepted':>15}"
        lines += ["", f"  {result.setting}", f"    {head}{drafts}"]
        lines += [
            f"    {name:{width}} {_figures(figures)}".rstrip()
            for name, figures in {**result.domains, OVERALL: result.overall}.items()
        ]
    if report.not_judged is not None:
        if report.code_run:
            lines += ["", f"  Not every code answer was judged. {report.not_judged}"]
        else:
            lines += ["", "  Code answers are not judged: this model's programs are not run (--run-code runs them)."]
        lines.append(f"  The accuracy of '{OVERALL}' leaves out what was not judged.")
    for each in comparisons:
        lines += ["", *_comparison_lines(each)]
    return lines


def _figures(figures: AnswerFigures) -> str:
    accepted = ""
    if figures.drafted is not None:
        accepted = f"{figures.accepted} of {figures.drafted}"
    interval = "-"
    if figures.accuracy_interval is not None:
        interval = " to ".join(f"{100 * end:.1f}" for end in figures.accuracy_interval)
    return (
        f"{figures.n:5} {or_dash(figures.accuracy, '.1%'):>9} {interval:>14} "
        f"{or_dash(figures.tokens_per_forward, '.2f'):>6} {or_dash(figures.tokens_per_second, '.1f'):>9} "
        f"{figures.mean_output_tokens:7.1f} {figures.cut_by_length:5.0%} {accepted:>15}"
    )


def _comparison_lines(each: Comparison) -> list[str]:
    against = each.baseline_setting
    if each.baseline_model != each.model:
        against = f"{against} of {each.baseline_model}"
    lines = [f"  {each.setting} against {against}"]
    if each.accuracy_points is None:
        lines.append("    accuracy: no prompt was judged under both")
    else:
        low, high = each.interval_points
        lines.append(
            f"    accuracy: {each.accuracy_points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}); "
            f"only this right {each.only_this_right}, only that right {each.only_baseline_right}, "
            f"of {each.judged}; McNemar p = {each.mcnemar_p:.3g}"
        )
    if each.identical is None:
        return lines
    lines.append(
        f"    wall-clock: {or_dash(each.seconds_ratio, '.2f')}x the time, "
        f"{or_dash(each.tokens_per_second_ratio, '.2f')}x the tokens/s"
    )
    differing = len(each.differences)
    lines.append(f"    outputs: {each.identical} of {each.identical + differing} token for token the same")
    gaps = [found.logit_gap for found in each.differences if found.logit_gap is not None]
    if gaps:
        lines.append(
            f"    AR's top-2 logit gap at the first difference: "
            f"smallest {min(gaps):.3g}, median {statistics.median(gaps):.3g}, largest {max(gaps):.3g}"
        )
    return lines


def _curve_lines(curves: Sequence[Curve]) -> list[str]:
    lines = [
        "AUP: the area under accuracy (percent) against TPF; the weight of a lost point grows with the loss",
        f"  {'':40} {'AUP':>7}  points that count",
    ]
    sizes = Counter((curve.model, curve.strategy) for curve in curves if curve.block_size is not None)
    for curve in curves:
        if curve.block_size is None and sizes[curve.model, curve.strategy] == 1:
            continue  # it equals the curve above
        kept = [point for point in curve.points if point.counts]
        rates = [point.tokens_per_forward for point in kept]
        span = f"{rates[0]:.2f}" if len(kept) == 1 else f"{rates[0]:.2f} to {rates[-1]:.2f}"
        lines.append(f"  {curve.name:40} {curve.aup:7.1f}  {len(kept)} of {len(curve.points)}, TPF {span}")
        left = [point for point in curve.points if not point.counts]
        lines += [f"  {'':40} {'':>7}  not {each.setting} ({each.accuracy:.1f} %)" for each in left]
    best = curves[0].best
    lines += [
        f"  A curve begins at its model's AR, where there is one. Points more than {MOST_LOST:g} points of accuracy",
        "  below its least parallel one do not count. The accuracy that loses nothing is the best of all here, "
        f"{best:.1f} %.",
    ]
    return lines


def or_dash(value: float | None, spec: str, unit: str = "") -> str:
    """A number with its unit, formatted by `spec`; "-" for None."""
    return "-" if value is None else f"{value:{spec}}{unit}"
