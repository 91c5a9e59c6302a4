"""Tokens per forward and accuracy by training step: the checkpoints of a run, decoded one after another.

    python benchmarks/training_curve.py                                   # trains a small run first, a few minutes
    python benchmarks/training_curve.py --run runs/mine                   # a run of `python -m training adapt`
    python benchmarks/training_curve.py --models nano path/to/checkpoint

Without --run or --models, the recipe `smoke` runs for --steps steps in --output, with a checkpoint every --save-every
steps. If the command is stopped, the same command resumes it and decodes no checkpoint twice. Of your own run, only the
checkpoints that it kept can be shown (`--set saving.keep=100` keeps up to 100). Every model answers the same held-out
problems by AR, block diffusion and self-speculation, greedily. The last line is JSON.
"""

import dataclasses
import json
import logging
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a waiting thread must not keep a core busy
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tqdm import tqdm

import nbdiff_engine as nb
from benchmarks.measuring import DTYPES, BenchmarkParser, Report, at_least, run, table
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import SettingError
from nbdiff_engine.evaluation.run import evaluate
from nbdiff_engine.evaluation.settings_grid import AR
from nbdiff_engine.tasks import Problem, held_out
from training.errors import RunError
from training.recipe.recipe import Recipe
from training.run.checkpointing import Checkpoint, CheckpointStore
from training.run.exporting import export
from training.run.interruption import Interrupted
from training.run.launch import start
from training.run.resuming import check_folder
from training.run.run_folder import RunFolder, read_lines

RECIPE = "smoke"
ROWS = 20  # prompts in a batch; tokens and forwards do not depend on it
KEPT = "training_curve.jsonl"  # in the run's folder: the points that were measured before


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """The measurements of one checkpoint. Accuracies are shares of the judged answers; None: none was judged."""

    model: str
    step: int | None  # None for a model that is not a checkpoint of the run
    ar_accuracy: float | None
    block_diffusion_accuracy: float | None
    block_diffusion_tpf: float | None
    self_speculation_accuracy: float | None
    self_speculation_tpf: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class CurveSettings:
    """How every checkpoint is decoded."""

    problems: int  # of each domain
    block_size: int
    threshold: float
    max_new_tokens: int
    dtype: str
    run_code: bool

    @property
    def decode_settings(self) -> Sequence[DecodeSettings]:
        blocks = {"block_size": self.block_size}
        return (
            AR,
            DecodeSettings.of(strategy="block_diffusion", threshold=self.threshold, **blocks),
            DecodeSettings.of(strategy="self_speculative", **blocks),
        )


def point_of(
    model: nb.BlockModel, problems: list[Problem], settings: CurveSettings, step: int | None, name: str
) -> Point:
    """Decode the problems with one model. Raises SettingError for an AR-only model."""
    model.require_spec("a curve of block diffusion")
    done = evaluate(
        [model],
        problems,
        settings.decode_settings,
        max_new_tokens=settings.max_new_tokens,
        batch_size=ROWS,
        run_code=settings.run_code,
    )
    by_strategy = {each.settings["strategy"]: each.overall for each in done.models[0].results}
    ar, blocks, drafts = (by_strategy[each] for each in ("ar", "block_diffusion", "self_speculative"))
    return Point(
        model=name,
        step=step,
        ar_accuracy=ar.accuracy,
        block_diffusion_accuracy=blocks.accuracy,
        block_diffusion_tpf=blocks.tokens_per_forward,
        self_speculation_accuracy=drafts.accuracy,
        self_speculation_tpf=drafts.tokens_per_forward,
    )


def train(output: Path, steps: int, save_every: int) -> None:
    """Run or resume the small recipe; do nothing if it is finished.

    Raises RunError if the folder contains another run, or if training is interrupted.
    """
    folder = RunFolder(output)
    changes = [f"optimisation.max_steps={steps}", f"saving.save_every={save_every}", f"saving.keep={steps}"]
    recipe = Recipe.read(RECIPE, changes)
    longer = check_folder(folder, recipe, folder.holds_a_run, processes=1)
    if longer or not (folder.final / "config.json").is_file():
        try:
            start(recipe, output, resume=folder.holds_a_run)
        except Interrupted as stopped:  # its message names --resume, which this script does not have
            raise RunError("Training was stopped, and the run is saved. The same command resumes it.") from stopped


def points_of_run(run_path: Path, problems: list[Problem], settings: CurveSettings) -> Iterator[Point]:
    """A point for each checkpoint, oldest first. Points measured before with the same settings are read from the file.

    Raises SettingError if the folder contains no checkpoints.
    """
    checkpoints = CheckpointStore(RunFolder(run_path).checkpoints, 1).all()
    if not checkpoints:
        raise SettingError(f"{run_path} contains no checkpoints of a run; give the folder of a training run.")
    kept = {
        line["step"]: line["point"]
        for line in read_lines(run_path / KEPT)
        if line.get("asked") == dataclasses.asdict(settings)
    }
    for each in tqdm(checkpoints, desc="checkpoints", leave=False, disable=None):
        if each.step not in kept:
            point = _measured(run_path, each, problems, settings)
            kept[each.step] = dataclasses.asdict(point)
            line = {"step": each.step, "asked": dataclasses.asdict(settings), "point": kept[each.step]}
            with (run_path / KEPT).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        yield Point(**kept[each.step])


def _measured(run_path: Path, checkpoint: Checkpoint, problems: list[Problem], settings: CurveSettings) -> Point:
    with tempfile.TemporaryDirectory() as temporary:
        model = nb.load(export(run_path, checkpoint, Path(temporary)), dtype=settings.dtype)
        return point_of(model, problems, settings, checkpoint.step, checkpoint.folder.name)


def points_of_models(names: Sequence[str], problems: list[Problem], settings: CurveSettings) -> Iterator[Point]:
    for name in tqdm(names, desc="models", leave=False, disable=None):
        yield point_of(nb.load(name, dtype=settings.dtype), problems, settings, None, name)


def curve_table(points: Sequence[Point]) -> str:
    heads = ("model", "step", "AR right", "block diffusion right", "TPF", "self-speculation right", "TPF")
    rows = [
        (
            each.model,
            each.step,
            _share(each.ar_accuracy),
            _share(each.block_diffusion_accuracy),
            _number(each.block_diffusion_tpf),
            _share(each.self_speculation_accuracy),
            _number(each.self_speculation_tpf),
        )
        for each in points
    ]
    return table(heads, rows)


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _parsed() -> Namespace:
    options = BenchmarkParser(__doc__)
    which = options.add_mutually_exclusive_group()
    which.add_argument("--run", type=Path, help="folder of a training run, finished or not")
    which.add_argument("--models", nargs="+", help="bundled names, folders or hub ids, ordered by training")
    options.add_argument(
        "--output", type=Path, default=ROOT / "runs" / "training-curve", help="folder of the small run"
    )
    options.add_argument("--steps", type=at_least(1), default=160, help="steps of the small run")
    options.add_argument("--save-every", type=at_least(1), default=20, help="steps between its checkpoints")
    options.add_argument("--problems", type=at_least(1), default=10, help="problems of each domain")
    options.add_argument("--block-size", type=at_least(1), default=16)
    options.add_argument("--threshold", type=float, default=0.9)
    options.add_argument("--max-new-tokens", type=at_least(2), default=128)
    options.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    options.add_argument("--run-code", action="store_true", help="judge code of --run and --models by running it")
    options.add_save()
    return options.parse_args()


def main() -> None:
    given = _parsed()
    settings = CurveSettings(
        problems=given.problems,
        block_size=given.block_size,
        threshold=given.threshold,
        max_new_tokens=given.max_new_tokens,
        dtype=given.dtype,
        run_code=given.run_code or not (given.run or given.models),  # trained only on our corpus
    )
    _ = settings.decode_settings  # raises before training if a setting is wrong
    problems = held_out(limit=given.problems)
    report = Report("training_curve", given.save)
    if given.models:
        where, points = "models", points_of_models(given.models, problems, settings)
    elif given.run:
        where, points = f"run {given.run.name}", points_of_run(given.run, problems, settings)
    else:
        logging.basicConfig(level=logging.WARNING)
        train(given.output, given.steps, given.save_every)
        where = f"recipe {RECIPE}, {given.steps} steps"
        points = points_of_run(given.output, problems, settings)
    found = list(points)
    report.write(
        f"\n{where}: {len(problems)} held-out problems, {given.dtype}, blocks of "
        f"{given.block_size}, threshold {given.threshold:g}"
    )
    report.write(curve_table(found))
    report.finish({"asked": dataclasses.asdict(settings), "points": [dataclasses.asdict(each) for each in found]})


if __name__ == "__main__":
    run(main)
