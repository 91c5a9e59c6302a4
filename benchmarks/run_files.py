"""Reads and checks the files of `python -m nbdiff_engine eval --output`, including those of older versions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine.errors import NBDiffError, first_problem
from nbdiff_engine.evaluation.curves import Curve, Measured, curves_of
from nbdiff_engine.evaluation.statistics import wilson_interval

MAX_BYTES = 256 * 2**20


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class SavedScores(_Part):
    """Accuracy and speed over the problems of one domain, or of all."""

    n: int = Field(ge=1)
    judged: int = Field(ge=0)
    accuracy: float | None = Field(ge=0, le=1)
    tokens_per_forward: float | None
    tokens_per_second: float | None
    mean_output_tokens: float
    seconds: float
    cut_by_length: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the accuracy (Wilson), as shares. It is computed here, because older files have none."""
        return None if self.accuracy is None else wilson_interval(round(self.accuracy * self.judged), self.judged)


class SavedResult(_Part):
    setting: str
    settings: dict[str, Any]
    overall: SavedScores
    domains: dict[str, SavedScores]


class SavedModel(_Part):
    name: str
    parameters: int
    dtype: str
    device: str
    threads: int
    not_judged: str | None
    results: list[SavedResult]


class SavedComparison(_Part):
    model: str
    setting: str
    baseline_model: str
    baseline_setting: str
    judged: int
    accuracy_points: float | None
    interval_points: tuple[float, float] | None
    only_this_right: int
    only_baseline_right: int
    mcnemar_p: float | None
    seconds_ratio: float | None
    tokens_per_second_ratio: float | None
    identical: int | None
    differences: list[Any] | None


class SavedRun(_Part):
    """The contents of one evaluation file."""

    machine: dict[str, Any]
    problems: dict[str, int]
    max_new_tokens: int
    models: list[SavedModel]
    comparisons: list[SavedComparison]
    batch_size: int = 1
    problems_digest: str | None = None


@dataclass(frozen=True, slots=True)
class ReportRow:
    """The result of one model with one setting in one run. model: its name; with several runs, also the run's name."""

    model: str
    result: SavedResult

    @property
    def strategy(self) -> str:
        return str(self.result.settings["strategy"])

    @property
    def block_size(self) -> int:
        return int(self.result.settings["block_size"])

    @property
    def line(self) -> tuple[str, str, int]:
        """Model, strategy and block size: the line in a figure that this row is a point of."""
        return self.model, self.strategy, self.block_size


@dataclass(frozen=True, slots=True)
class SavedRuns:
    """Runs by name, and whether they can be compared."""

    by_name: dict[str, SavedRun]

    @property
    def rows(self) -> list[ReportRow]:
        return [row for name in self.by_name for row in self.rows_of(name)]

    def rows_of(self, run: str) -> list[ReportRow]:
        """The rows of one run."""
        models = self.by_name[run].models
        return [ReportRow(self.model(run, model.name), result) for model in models for result in model.results]

    def model(self, run: str, name: str) -> str:
        """A model's name in the report."""
        return name if len(self.by_name) == 1 else f"{run}: {name}"

    @property
    def same_problems(self) -> bool:
        """Whether all runs answered the same problems, by the digests and counts in their files."""
        runs = list(self.by_name.values())
        digests = {run.problems_digest for run in runs} - {None}
        return len(digests) < 2 and all(run.problems == runs[0].problems for run in runs)

    @property
    def same_conditions(self) -> bool:
        """Whether all runs used the same CPU, GPU and batch size."""
        runs = self.by_name.values()
        return len({(str(run.machine.get("cpu")), str(run.machine.get("gpu")), run.batch_size) for run in runs}) == 1

    def curves(self) -> list[Curve]:
        """The curves of all rows. They share one best accuracy if all runs answered the same problems."""
        groups = [self.rows] if self.same_problems else [self.rows_of(name) for name in self.by_name]
        return [curve for rows in groups for curve in curves_of([_measured(row) for row in rows])]


def _measured(row: ReportRow) -> Measured:
    overall = row.result.overall
    return Measured(row.model, row.result.setting, row.result.settings, overall.tokens_per_forward, overall.accuracy)


def read_runs(paths: Sequence[Path]) -> SavedRuns:
    """Read the runs in `paths`; their names are the file names. Raises NBDiffError, one sentence with the file."""
    found: dict[str, SavedRun] = {}
    for path in paths:
        name = path.stem
        while name in found:  # files with the same name in different folders
            name += "'"
        found[name] = _read(path)
    return SavedRuns(found)


def _read(path: Path) -> SavedRun:
    try:
        if not path.is_file():
            raise NBDiffError(f"There is no file {path}; write one with: python -m nbdiff_engine eval --output {path}")
        if path.stat().st_size > MAX_BYTES:
            raise NBDiffError(f"{path} is larger than {MAX_BYTES // 2**20} MiB, so it is not an evaluation.")
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NBDiffError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise NBDiffError(f"{path} is not JSON, so it is not an evaluation.") from error
    try:
        run = SavedRun.model_validate(fields)
    except ValidationError as error:
        raise NBDiffError(f"{path} is not an evaluation that this report can read: {first_problem(error)}.") from error
    results = [result for model in run.models for result in model.results]
    if not results:
        raise NBDiffError(f"{path} has no results, so there is nothing to draw.")
    for result in results:
        if not isinstance(result.settings.get("strategy"), str) or type(result.settings.get("block_size")) is not int:
            raise NBDiffError(
                f"{path} is not an evaluation that this report can read: a result has no strategy or no block size."
            )
    return run
