"""A run's folder: recipe.yaml, metrics.jsonl, evaluations.jsonl, probes.jsonl, end.json, checkpoints/, adapter/,
final/."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nbdiff_engine.errors import brief_text
from training.errors import RunError
from training.recipe.recipe import Recipe
from training.run.checkpointing import sweep
from training.run.end_file import END
from training.run.log_lines import HeldOutEvaluation, Probe, StepFigures
from training.run.shards import WEIGHTS, StoredTensors


class RunFolder:
    """The files of a run. Each log line is appended and flushed at once, so a kill loses at most the last one."""

    def __init__(self, path: Path):
        self.path = path
        self.recipe_file = path / "recipe.yaml"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.probes = path / "probes.jsonl"
        self.checkpoints = path / "checkpoints"
        self.final = path / "final"
        self.adapter = path / "adapter"

    @property
    def holds_a_run(self) -> bool:
        return self.recipe_file.exists()

    def check_new(self) -> None:
        """Raise RunError if a new run cannot start here. Writes nothing."""
        if self.path.exists() and (not self.path.is_dir() or any(each.name != END for each in self.path.iterdir())):
            what = "contains another run" if self.holds_a_run else "is not an empty folder"
            raise RunError(f"The output {self.path} {what}; give another --output, or use --resume to continue a run.")

    def create(self, recipe: Recipe) -> None:
        """Create the folder, remove unfinished checkpoints and exports, and write the recipe.

        Raises RunError if the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            sweep(self.path)  # first, because unfinished checkpoints may fill the disk
            _replace(self.recipe_file, recipe.to_yaml())
        except OSError as error:
            raise RunError(f"The output {self.path} cannot be written: {error.strerror or error}.") from error

    # -- logs --------------------------------------------------------------------------------------------

    def log_step(self, figures: StepFigures) -> None:
        _append(self.metrics, figures.to_json())

    def log_evaluation(self, evaluation: HeldOutEvaluation) -> None:
        _append(self.evaluations, evaluation.to_json())

    def log_probe(self, probe: Probe) -> None:
        _append(self.probes, probe.to_json())

    def forget_after(self, step: int) -> None:
        """Remove the log lines after `step`, which a resumed run writes again, and a line that a kill left incomplete.

        Raises RunError if a log cannot be written.
        """
        for path in (self.metrics, self.evaluations, self.probes):
            if not path.exists():
                continue
            kept = [line for line in read_lines(path) if line["step"] <= step]
            try:
                _replace(path, "".join(json.dumps(line) + "\n" for line in kept))
            except OSError as error:
                raise RunError(f"The log {path} cannot be written: {error.strerror or error}.") from error

    # -- tensors -----------------------------------------------------------------------------------------

    def load_tensors(self, folder: Path, name: str, parameters: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a checkpoint into the parameters with the same names. Raises RunError if one is missing.

        name: of the safetensors file; its parts are read too, and the shards of a sharded checkpoint.
        """
        StoredTensors(folder, name, WEIGHTS).fill(parameters)

    # -- lines of the logs -----------------------------------------------------------------------

    def step_figures(self, step: int) -> StepFigures | None:
        """The line of metrics.jsonl for a step; None if there is none, because not every step is logged."""
        found = (StepFigures.read(line) for line in reversed(read_lines(self.metrics)))
        return next((each for each in found if each is not None and each.step == step), None)

    def all_evaluations(self) -> list[HeldOutEvaluation]:
        """The lines of evaluations.jsonl."""
        return [found for line in read_lines(self.evaluations) if (found := HeldOutEvaluation.read(line)) is not None]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a log, without a line that a kill left incomplete."""
    found = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def _replace(path: Path, text: str) -> None:
    """Write a file completely, or leave it unchanged."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise RunError(f"The log {path} cannot be written: {error.strerror or error}.") from error


def shown_change(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """A changed setting for a message. before, now: settings as `flat` gives them."""
    return f"{key} ({brief_text(str(before.get(key)), 40)} then, {brief_text(str(now.get(key)), 40)} now)"


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping with keys `section.key`."""
    out: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out
