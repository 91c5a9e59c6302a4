"""The command `ray`: a run on a Ray cluster.

python -m training ray nano --output runs/nano --workers 2 --address local
python -m training ray qwen3-4b-paper --data d.parquet --output /shared/runs/q --workers 32 --set shard=true
"""

from typing import Annotated

import typer

from training.planning.planning_commands import (
    BaseOption,
    DataOption,
    OutputOption,
    ResumeOption,
    SetOption,
    StepsOption,
    recipe_and_folder,
    resolved_recipe,
)


def ray(
    recipe: Annotated[
        str | None, typer.Argument(help="Bundled recipe or a YAML file; with --resume: that of the run.")
    ] = None,
    base: BaseOption = None,
    data: DataOption = None,
    output: OutputOption = None,
    max_steps: StepsOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the run.")] = 1,
    cpus: Annotated[float, typer.Option(min=0.01, help="CPUs of a worker.")] = 1.0,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a worker. Default: 1 if the cluster has any, else 0.")
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="How often the run goes on from its last checkpoint after a worker has died.")
    ] = 3,
    address: Annotated[
        str | None,
        typer.Option(help="host:port of the cluster's head, auto, or local. Default: $RAY_ADDRESS."),
    ] = None,
) -> None:
    """Run a recipe on a Ray cluster (docs/scaling.md). The folder of the run must be shared by its machines."""
    from training.run.end_file import ending_written
    from training.run.ending import ending_of

    recipe, output = recipe_and_folder(recipe, output, resume)
    with ending_written(output, resume, ending_of):
        chosen = resolved_recipe(recipe, overrides, base, data, max_steps)
        from training.on_ray.train import Workers, train

        final = train(chosen, output, resume, Workers(workers, cpus, gpus), restarts, address)
    print(final)
