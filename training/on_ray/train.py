"""A run by Ray Train: Ray starts the workers, connects them, and starts them all again if one of them dies.

Each worker is one process of the usual trainer. Ray keeps no checkpoint: the workers go on from those in the run's
folder, and so through the losses of an undisturbed run.
"""

import logging
import shutil
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbdiff_engine.errors import brief_text
from nbdiff_engine.ray_cluster import check_room, cluster_has_gpus, connected
from training.errors import RunError
from training.failure_kind import FailureKind
from training.recipe.absolute_paths import with_absolute_paths
from training.recipe.recipe import Recipe
from training.run.end_file import Outcome, ending_written, is_first_process, read_ending
from training.run.ending import ending_of
from training.run.interruption import Interrupted, Interruption
from training.run.launch import GROUP_TIMEOUT, make_trainer, run_to_end
from training.run.log_lines import StepFigures
from training.run.run_folder import RunFolder

_POLL = 0.2  # seconds between looks at a signal


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes of a run. cpus, gpus: of each; gpus None: 1 if the cluster has any, else 0."""

    count: int = 1
    cpus: float = 1.0
    gpus: float | None = None


def train(recipe: Recipe, output: Path, resume: bool, workers: Workers, restarts: int, address: str | None) -> Path:
    """Train a recipe to its end on a Ray cluster, and return the folder of the finished model.

    output: a folder that all machines of the cluster share. restarts: after the death of a worker. address: as in
    `connected`. Raises NBDiffError with one sentence, and Interrupted after a signal, as `launch.start` does.
    """
    folder = RunFolder(output.absolute())
    if not resume:
        folder.check_new()
    elif not folder.holds_a_run:
        raise RunError(f"There is no run to resume in {output}: it has no recipe.yaml.")
    task = {"recipe": with_absolute_paths(recipe).model_dump(mode="json"), "output": str(folder.path)}
    scratch = folder.path.with_name(f".{folder.path.name}.ray")  # what Ray Train writes, and the request to stop
    with connected(address):
        gpus = (1.0 if cluster_has_gpus() else 0.0) if workers.gpus is None else workers.gpus
        check_room("workers", workers.count, workers.cpus, gpus)
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"The folder {scratch} cannot be written: {error.strerror or error}.") from error
        try:
            with Interruption() as interruption:
                error = _fit(task | {"scratch": str(scratch)}, workers, gpus, restarts, interruption)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return _outcome(folder, interruption, error, restarts)


def _fit(
    task: dict[str, Any], workers: Workers, gpus: float, restarts: int, interruption: Interruption
) -> Exception | None:
    """Run the workers to their end; the exception of Ray Train, if there is one. A signal asks the workers to stop."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    trainer = TorchTrainer(
        work,
        train_loop_config=task,
        torch_config=TorchConfig(timeout_s=int(GROUP_TIMEOUT.total_seconds())),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": workers.cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=task["scratch"],
            failure_config=FailureConfig(max_failures=restarts),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    errors: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # Ray Train may raise anything, also of its own controller
            errors.append(error)

    # In a thread of its own, because fit takes Ctrl-C in the main thread and ends the workers before they save.
    thread = threading.Thread(target=fit, name="ray train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        if interruption.stop_signal:
            _stop_file(task).touch()
    return errors[0] if errors else None


def work(task: dict[str, Any]) -> None:
    """One worker of a run: the usual trainer, from the newest checkpoint of the run's folder."""
    level = logging.INFO if is_first_process() else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    output = Path(task["output"])
    before = read_ending(output)  # of the workers that were here before; `train` has removed an older one
    if before is not None and before.outcome is Outcome.FAILED:
        return  # such as a NaN loss: it would fail again, and `train` reports it
    resume = (output / "recipe.yaml").is_file()

    def on_step(figures: StepFigures) -> None:
        if is_first_process() and _stop_file(task).exists():
            trainer.interruption.stop_signal = signal.SIGTERM  # the trainer tells the other processes

    try:
        with ending_written(output, resume, ending_of):
            trainer = make_trainer(Recipe.model_validate(task["recipe"]), output, resume, on_step)
            run_to_end(trainer, resume)
    except Interrupted:
        return  # all workers stop after the same step


def _stop_file(task: dict[str, Any]) -> Path:
    return Path(task["scratch"]) / "stop"


def _outcome(folder: RunFolder, interruption: Interruption, error: Exception | None, restarts: int) -> Path:
    """The finished model, or the exception that tells how the run ended: its first worker has written that down."""
    ending = read_ending(folder.path)
    if ending is not None and ending.outcome is Outcome.FINISHED and error is None:
        return folder.final
    if ending is not None and ending.outcome is Outcome.STOPPED:
        raise Interrupted(ending.step or 0, 128 + (interruption.stop_signal or signal.SIGTERM))
    if ending is not None and ending.outcome is Outcome.FAILED:
        raise RunError(ending.message, ending.kind)
    reason = ending.message if ending is not None and ending.message else _last_line(error)
    kind = ending.kind if ending is not None and ending.kind is not None else FailureKind.OTHER
    raise RunError(
        f"A worker died, and the run had {restarts} restarts: {reason}; the checkpoints in {folder.path} are kept, "
        "continue with --resume.",
        kind,
    ) from error


def _last_line(error: Exception | None) -> str:
    lines = [line for line in str(error or "").splitlines() if line.strip()]
    return brief_text(lines[-1], 300) if lines else "there is no reason in Ray's log"
