"""What `python -m nbdiff_engine eval --output` wrote, read back and checked, that of older engines too."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine.errors import NBDiffError, first_problem
from nbdiff_engine.evaluation.curves import Curve, Measured, curves_of
from nbdiff_engine.evaluation.statistics import wilson_interval

MOST_BYTES = 256 * 2**20


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Figures(_Part):
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
        """Of the accuracy, 95 %, as a share; older files have none."""
        return None if self.accuracy is None else wilson_interval(round(self.accuracy * self.judged), self.judged)


class Result(_Part):
    setting: str
    settings: dict[str, Any]
    overall: Figures
    domains: dict[str, Figures]


class Model(_Part):
    name: str
    parameters: int
    dtype: str
    device: str
    threads: int
    not_judged: str | None
    results: list[Result]


class Comparison(_Part):
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


class Run(_Part):
    """One evaluation."""

    machine: dict[str, Any]
    problems: dict[str, int]
    max_new_tokens: int
    models: list[Model]
    comparisons: list[Comparison]
    batch_size: int = 1
    problems_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One model under one setting, in one of the runs. model: with the run's name where there are several."""

    model: str
    result: Result

    @property
    def strategy(self) -> str:
        return str(self.result.settings["strategy"])

    @property
    def block_size(self) -> int:
        return int(self.result.settings["block_size"])

    @property
    def line(self) -> tuple[str, str, int]:
        """Whose line in a figure it is a point of."""
        return self.model, self.strategy, self.block_size


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs by name, and what they have in common."""

    by_name: dict[str, Run]

    @property
    def rows(self) -> list[Row]:
        return [row for name in self.by_name for row in self.rows_of(name)]

    def rows_of(self, run: str) -> list[Row]:
        """The rows of one run."""
        models = self.by_name[run].models
        return [Row(self.model(run, model.name), result) for model in models for result in model.results]

    def model(self, run: str, name: str) -> str:
        """A model's name in the report."""
        return name if len(self.by_name) == 1 else f"{run}: {name}"

    @property
    def same_problems(self) -> bool:
        """Whether all runs answered the same problems, as far as their files say."""
        runs = list(self.by_name.values())
        digests = {run.problems_digest for run in runs} - {None}
        return len(digests) < 2 and all(run.problems == runs[0].problems for run in runs)

    @property
    def same_conditions(self) -> bool:
        """Whether all ran on one kind of machine, with batches of one size."""
        runs = self.by_name.values()
        return len({(str(run.machine.get("cpu")), str(run.machine.get("gpu")), run.batch_size) for run in runs}) == 1

    def curves(self) -> list[Curve]:
        """The curves of all rows; with one best accuracy where all runs answered the same problems."""
        groups = [self.rows] if self.same_problems else [self.rows_of(name) for name in self.by_name]
        return [curve for rows in groups for curve in curves_of([_measured(row) for row in rows])]


def _measured(row: Row) -> Measured:
    overall = row.result.overall
    return Measured(row.model, row.result.setting, row.result.settings, overall.tokens_per_forward, overall.accuracy)


def read_runs(paths: Sequence[Path]) -> Runs:
    """The runs in some files, named as the files are. Raises NBDiffError, one sentence with the file."""
    found: dict[str, Run] = {}
    for path in paths:
        name = path.stem
        while name in found:  # files of one name in several folders
            name += "'"
        found[name] = _read(path)
    return Runs(found)


def _read(path: Path) -> Run:
    try:
        if not path.is_file():
            raise NBDiffError(f"There is no file {path}; write one with: python -m nbdiff_engine eval --output {path}")
        if path.stat().st_size > MOST_BYTES:
            raise NBDiffError(f"{path} is larger than {MOST_BYTES // 2**20} MiB, so it is no evaluation.")
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NBDiffError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise NBDiffError(f"{path} is not JSON, so it is no evaluation.") from error
    try:
        run = Run.model_validate(fields)
    except ValidationError as error:
        raise NBDiffError(f"{path} is no evaluation that this report reads: {first_problem(error)}.") from error
    results = [result for model in run.models for result in model.results]
    if not results:
        raise NBDiffError(f"{path} has no results, so there is nothing to draw.")
    for result in results:
        if not isinstance(result.settings.get("strategy"), str) or type(result.settings.get("block_size")) is not int:
            raise NBDiffError(f"{path} is no evaluation that this report reads: a result names no strategy or block.")
    return run
