"""The command `export`: a checkpoint of a run as a folder that loads, and which servers can load a draft adapter.

python -m training export runs/mine --output exported
python -m training export runs/mine --check
"""

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run, or with --check of an adapter.")]
StepOption = Annotated[int | None, typer.Option("--step", help="Checkpoint to export. Default: the newest one.")]
TargetOption = Annotated[Path | None, typer.Option("--output", help="Write the model into a new folder in here.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Say which servers can load the draft adapter, and how.")]


def export(run: RunArgument, step: StepOption = None, output: TargetOption = None, check: CheckOption = False) -> None:
    """Write a checkpoint of a run as a model, or a draft adapter as its folder; or check where an adapter loads."""
    from training.errors import RunError
    from training.run import exporting, serving
    from training.run.checkpointing import CheckpointStore
    from training.run.run_folder import RunFolder

    folder = RunFolder(run)
    if not check and output is None:
        raise RunError("Give --output, the folder to write to, or --check.")
    if output is not None:
        if not folder.holds_a_run:
            raise RunError(f"There is no run in {run}: it has no recipe.yaml.")
        checkpoints = CheckpointStore(folder.checkpoints, 1).all()
        newest = checkpoints[-1].step if step is None and checkpoints else step
        run = exporting.export(run, exporting.newest_or(checkpoints, newest), output)
        print(run)
    elif folder.holds_a_run:
        run = exporting.final_of(run)
    if check:
        print(serving.shown(serving.servers_for(run)))
