"""Tokens per forward and accuracy as a function of training: a run's checkpoints, decoded one after another.

    python benchmarks/training_curve.py                                   trains a small run first, a few minutes
    python benchmarks/training_curve.py --run runs/mine                   of `python -m training adapt`
    python benchmarks/training_curve.py --models nano path/to/checkpoint

Without --run or --models the recipe `smoke` is run for --steps steps into --output, with a checkpoint every
--save-every of them. The command given again goes on where it was stopped, and decodes no checkpoint twice. A run of
your own shows the checkpoints that it kept (`--set saving.keep=100` keeps them all). Every model answers the same
held-out problems by AR, block diffusion and self-speculation, greedily. The last line is JSON.
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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: two threads else stall beside any other process
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tqdm import tqdm

import nbdiff_engine as nb
from benchmarks.measuring import DTYPES, Options, Report, at_least, run, table
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
from training.run.run_folder import RunFolder, read_lines

RECIPE = "smoke"
ROWS = 20  # prompts decoded side by side: neither tokens nor forwards depend on it
KEPT = "training_curve.jsonl"  # in the run's folder: what was measured already


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """What one checkpoint does. Accuracies are shares of the judged answers, None where none was judged."""

    model: str
    step: int | None  # None for a model that is not of the run
    ar_accuracy: float | None
    block_diffusion_accuracy: float | None
    block_diffusion_tpf: float | None
    self_speculation_accuracy: float | None
    self_speculation_tpf: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """How every checkpoint is decoded."""

    problems: int  # of each domain
    block_size: int
    threshold: float
    max_new_tokens: int
    dtype: str
    run_code: bool

    @property
    def settings(self) -> Sequence[DecodeSettings]:
        blocks = {"block_size": self.block_size}
        return (
            AR,
            DecodeSettings.of(strategy="block_diffusion", threshold=self.threshold, **blocks),
            DecodeSettings.of(strategy="self_speculative", **blocks),
        )


def point_of(model: nb.BlockModel, problems: list[Problem], asked: Asked, step: int | None, name: str) -> Point:
    """Decode the problems with one model. Raises SettingError for one that has no blocks."""
    model.require_spec("a curve of block diffusion")
    done = evaluate(
        [model],
        problems,
        asked.settings,
        max_new_tokens=asked.max_new_tokens,
        batch_size=ROWS,
        run_code=asked.run_code,
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
    """Run the small recipe, or go on with it; nothing where it is done. Raises RunError where the folder holds
    another run."""
    folder = RunFolder(output)
    changes = [f"optimisation.max_steps={steps}", f"saving.save_every={save_every}", f"saving.keep={steps}"]
    recipe = Recipe.read(RECIPE, changes)
    folder.check(recipe, resume=folder.holds_a_run)
    if not (folder.final / "config.json").is_file():
        try:
            start(recipe, output, resume=folder.holds_a_run)
        except Interrupted as stopped:  # in the words of the other command line, which has an option for it
            raise RunError("The small run was stopped and is saved; the same command goes on with it.") from stopped


def points_of_run(run_path: Path, problems: list[Problem], asked: Asked) -> Iterator[Point]:
    """A point for each checkpoint, oldest first; those measured before in the same way are read back."""
    checkpoints = CheckpointStore(RunFolder(run_path).checkpoints, 1).all()
    if not checkpoints:
        raise SettingError(f"There are no checkpoints of a run in {run_path}; give the folder of a training run.")
    kept = {
        line["step"]: line["point"]
        for line in read_lines(run_path / KEPT)
        if line.get("asked") == dataclasses.asdict(asked)
    }
    for each in tqdm(checkpoints, desc="checkpoints", leave=False, disable=None):
        if each.step not in kept:
            point = _measured(run_path, each, problems, asked)
            kept[each.step] = dataclasses.asdict(point)
            line = {"step": each.step, "asked": dataclasses.asdict(asked), "point": kept[each.step]}
            with (run_path / KEPT).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        yield Point(**kept[each.step])


def _measured(run_path: Path, checkpoint: Checkpoint, problems: list[Problem], asked: Asked) -> Point:
    with tempfile.TemporaryDirectory() as temporary:
        model = nb.load(export(run_path, checkpoint, Path(temporary)), dtype=asked.dtype)
        return point_of(model, problems, asked, checkpoint.step, checkpoint.folder.name)


def points_of_models(names: Sequence[str], problems: list[Problem], asked: Asked) -> Iterator[Point]:
    for name in tqdm(names, desc="models", leave=False, disable=None):
        yield point_of(nb.load(name, dtype=asked.dtype), problems, asked, None, name)


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
    options = Options(__doc__)
    which = options.add_mutually_exclusive_group()
    which.add_argument("--run", type=Path, help="folder of a training run, finished or not")
    which.add_argument("--models", nargs="+", help="bundled names, folders or hub ids, in the order of their training")
    options.add_argument("--output", type=Path, default=ROOT / "runs" / "training-curve", help="of the small run")
    options.add_argument("--steps", type=at_least(1), default=160, help="of the small run")
    options.add_argument("--save-every", type=at_least(1), default=20, help="steps between its checkpoints")
    options.add_argument("--problems", type=at_least(1), default=10, help="of each domain")
    options.add_argument("--block-size", type=at_least(1), default=16)
    options.add_argument("--threshold", type=float, default=0.9)
    options.add_argument("--max-new-tokens", type=at_least(2), default=128)
    options.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    options.add_argument("--run-code", action="store_true", help="judge programs of --run and --models by running them")
    options.add_save()
    return options.parse_args()


def main() -> None:
    given = _parsed()
    asked = Asked(
        problems=given.problems,
        block_size=given.block_size,
        threshold=given.threshold,
        max_new_tokens=given.max_new_tokens,
        dtype=given.dtype,
        run_code=given.run_code or not (given.run or given.models),  # the small run learns our own corpus alone
    )
    _ = asked.settings  # what is wrong with them is said before anything is trained
    problems = held_out(limit=given.problems)
    report = Report("training_curve", given.save)
    if given.models:
        where, points = "models", points_of_models(given.models, problems, asked)
    elif given.run:
        where, points = f"run {given.run.name}", points_of_run(given.run, problems, asked)
    else:
        logging.basicConfig(level=logging.WARNING)
        train(given.output, given.steps, given.save_every)
        where = f"recipe {RECIPE}, {given.steps} steps"
        points = points_of_run(given.output, problems, asked)
    found = list(points)
    report.say(
        f"\n{where}: {len(problems)} held-out problems, {given.dtype}, blocks of "
        f"{given.block_size}, threshold {given.threshold:g}"
    )
    report.say(curve_table(found))
    report.finish({"asked": dataclasses.asdict(asked), "points": [dataclasses.asdict(each) for each in found]})


if __name__ == "__main__":
    run(main)
