"""The figures of each setting of a sweep, from its frames; as a table, as series and as CSV."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nbdiff_engine.evaluation.statistics import wilson_interval
from nbdiff_engine.trace.metrics import pooled
from playground.server.worker import Frame
from playground.sweep.sweep_frames import SweepAnswer


@dataclass(frozen=True, slots=True)
class TableRow:
    """The figures of one setting. setting: "1 = AR" or the block size. n: the number of answers.

    accuracy: share of correct answers; its 95 % interval (Wilson) is from accuracy_low to accuracy_high. tpf,
    tokens_per_second: by `pooled` of trace.metrics. slowest_quarter, fastest_quarter: a quarter of the answers had
    fewer, or more, tokens per second than this. same_as_ar: share of answers with the same tokens as AR. speed: tokens
    per second divided by those of AR, over the problems that both have answered. All are None if the divisor is 0.
    output: the answer to the visitor's prompt, None for problems.
    """

    model: str
    series: str
    setting: str
    block_size: int
    strategy: str
    n: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    tpf: float | None
    tokens_per_second: float | None
    slowest_quarter: float | None
    fastest_quarter: float | None
    mean_tokens: float
    same_as_ar: float | None
    speed: float | None
    output: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A row of the endpoint and of the CSV file."""
        fields = asdict(self)
        if self.output is None:
            del fields["output"]
        return fields


def table(frames: Iterable[Frame]) -> list[TableRow]:
    """The figures of each setting, in their order, from the frames of a sweep. Frames of other types are skipped."""
    by_setting: dict[int, dict[int, SweepAnswer]] = {}
    baselines: dict[str, dict[int, SweepAnswer]] = {}
    for each in frames:
        if not isinstance(each, SweepAnswer):
            continue
        by_setting.setdefault(each.setting, {})[each.problem] = each
        if each.strategy == "ar":
            baselines.setdefault(each.model, {})[each.problem] = each
    return [
        _row(list(own.values()), baselines.get(next(iter(own.values())).model, {}))
        for _, own in sorted(by_setting.items())
    ]


def _row(answers: Sequence[SweepAnswer], ar: dict[int, SweepAnswer]) -> TableRow:
    first = answers[0]
    judged = [each.correct for each in answers if each.correct is not None]
    both = [(each, ar[each.problem]) for each in answers if each.problem in ar]
    low, high = wilson_interval(sum(judged), len(judged)) or (None, None)
    rates = pooled(each.metrics for each in answers)
    speeds = [each.metrics.tokens_per_second for each in answers if each.metrics.tokens_per_second is not None]
    quarters = statistics.quantiles(speeds, n=4, method="inclusive") if len(speeds) > 1 else [None] * 3
    own = pooled(each.metrics for each, _ in both).tokens_per_second
    of_ar = pooled(other.metrics for _, other in both).tokens_per_second
    return TableRow(
        model=first.model,
        series=first.series,
        setting=first.label,
        block_size=first.block_size,
        strategy=first.strategy,
        n=len(answers),
        accuracy=sum(judged) / len(judged) if judged else None,
        accuracy_low=low,
        accuracy_high=high,
        tpf=rates.tokens_per_forward,
        tokens_per_second=rates.tokens_per_second,
        slowest_quarter=quarters[0],
        fastest_quarter=quarters[2],
        mean_tokens=rates.output_tokens / rates.answers,
        same_as_ar=sum(each.digest == other.digest for each, other in both) / len(both) if both else None,
        speed=own / of_ar if own is not None and of_ar else None,
        output=None if judged else first.output,
    )


def series_of(rows: Sequence[TableRow]) -> dict[str, list[TableRow]]:
    """The rows of each series, sorted by block size. The first point of each series is AR of the same model."""
    ar = {row.model: row for row in rows if row.strategy == "ar"}
    lines: dict[str, list[TableRow]] = {}
    for row in rows:
        if row.strategy != "ar":
            start = [ar[row.model]] if row.model in ar else []
            lines.setdefault(row.series, start).append(row)
    alone = {model for model in ar if all(row.model != model for line in lines.values() for row in line)}
    lines |= {ar[model].series: [ar[model]] for model in ar if model in alone}
    return {name: sorted(line, key=lambda row: row.block_size) for name, line in lines.items()}


def to_csv(rows: Sequence[TableRow]) -> str:
    """The table as CSV, with full precision; None is empty. A ' before a text stops a spreadsheet from running it."""
    if not rows:
        return ""
    out = io.StringIO(newline="")
    cells = [row.to_json() for row in rows]
    writer = csv.DictWriter(out, fieldnames=list(cells[0]), lineterminator="\n")
    writer.writeheader()
    for each in cells:
        writer.writerow({name: _cell(value) for name, value in each.items()})
    return out.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
