"""The metrics of a run as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields

from training.run.log_lines import StepFigures


def metrics_csv(metrics: Sequence[StepFigures]) -> str:
    """One row for each logged step, with full precision; a missing value is empty. "" without a step."""
    if not metrics:
        return ""
    names = [each.name for each in fields(StepFigures)]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(line.to_json() for line in metrics)
    return out.getvalue()
