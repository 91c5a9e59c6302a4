"""The command line of training.

    python -m training adapt --recipe smoke
    python -m training pretrain --recipe nano-ar --output runs/nano-ar
    python -m training preview --recipe nano
    python -m training ray nano --output runs/nano --workers 8 --address auto
    python -m training jobs submit --recipe smoke
    torchrun --standalone --nproc-per-node 2 -m training adapt --recipe nano --output runs/nano

Bad input gives one sentence on standard error and exit code 2. Nothing here imports torch before a command runs, so
that --help is fast.
"""

import logging
import sys
from pathlib import Path

import typer

from training.jobs.jobs_command import cli as jobs_cli
from training.on_ray.ray_command import ray
from training.planning import planning_commands
from training.planning.planning_commands import (
    BaseOption,
    DataOption,
    OutputOption,
    RecipeOption,
    ResumeOption,
    SetOption,
    StepsOption,
)
from training.run.end_file import ending_written, is_first_process
from training.sharing.export_command import export

cli = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Adapt an AR checkpoint into a block-diffusion model.",
    epilog="After installation, nbdiff-train is the same command as python -m training.",
)


@cli.command()
def adapt(
    recipe: RecipeOption = None,
    base: BaseOption = None,
    data: DataOption = None,
    output: OutputOption = None,
    max_steps: StepsOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
) -> None:
    """Adapt an AR checkpoint into a block-diffusion model."""
    _run("adapt", recipe, base, data, output, max_steps, overrides, resume)


@cli.command()
def pretrain(
    recipe: RecipeOption = None,
    data: DataOption = None,
    output: OutputOption = None,
    max_steps: StepsOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train an AR model from scratch."""
    _run("pretrain", recipe, None, data, output, max_steps, overrides, resume)


planning_commands.register(cli)
cli.command()(export)
cli.command()(ray)
cli.add_typer(jobs_cli, name="jobs")


def _run(
    kind: str,
    recipe: str | None,
    base: str | None,
    data: str | None,
    output: Path | None,
    max_steps: int | None,
    overrides: list[str] | None,
    resume: bool,
) -> None:
    from training.errors import RecipeError
    from training.run.ending import ending_of

    recipe, output = planning_commands.recipe_and_folder(recipe, output, resume)
    with ending_written(output, resume, ending_of):
        chosen = planning_commands.resolved_recipe(recipe, overrides, base, data, max_steps)
        if chosen.kind != kind:
            raise RecipeError(
                f"The recipe {recipe} is for {chosen.kind}; run python -m training {chosen.kind} with it."
            )
        from training.run.launch import start

        final = start(chosen, output, resume)
    if is_first_process():
        print(final)


def main() -> None:
    """Run the command line. Bad input becomes one sentence on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # characters that the terminal's encoding lacks are printed as escapes
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    level = logging.INFO if is_first_process() else logging.ERROR  # the others do the same
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        code = cli(standalone_mode=False)
    except typer.TyperException as error:
        print(f"error: {error.format_message()} (--help lists commands and options)", file=sys.stderr)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except ValueError as error:
        from nbdiff_engine.errors import NBDiffError

        if not isinstance(error, NBDiffError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code)


if __name__ == "__main__":
    main()
