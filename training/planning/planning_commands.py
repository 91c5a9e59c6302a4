"""Commands to use before a run: recipes, preview, estimate, corpus.

python -m training recipes
python -m training preview --recipe nano --n 3
python -m training estimate --recipe qwen3-0.6b-lora --json
python -m training corpus --domain math --split test --n 5
"""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # importing recipes is slow, and --help does not need them
    from training.recipe.recipe import Recipe

RecipeOption = Annotated[str | None, typer.Option("--recipe", help="Bundled recipe or a YAML file.")]
BaseOption = Annotated[str | None, typer.Option("--base", help="AR checkpoint: bundled name, folder or hub id.")]
DataOption = Annotated[
    str | None,
    typer.Option("--data", help="File, folder, hub id, several as a.jsonl:0.7,b[:9]:0.3, 'corpus' or 'self'."),
]
StepsOption = Annotated[int | None, typer.Option("--max-steps", help="Optimiser steps; all phases scale with it.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OutputOption = Annotated[Path | None, typer.Option("--output", help="Folder of the run. Default: a new one in runs/.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")]


def register(cli: typer.Typer) -> None:
    """Add these commands to a typer application."""
    for command in (recipes, preview, estimate, corpus):
        cli.command()(command)


def recipes(as_json: JsonOption = False) -> None:
    """List the bundled recipes."""
    from training.recipe.recipe import Recipe
    from training.recipe.recipe_fields import bundled_recipes

    found = {name: Recipe.read(name) for name in sorted(bundled_recipes())}
    if as_json:
        rows = [
            {"name": name, "kind": each.kind, "base": each.base, "about": each.about, "missing": each.missing}
            for name, each in found.items()
        ]
        print(json.dumps(rows, ensure_ascii=False))
        return
    width = max(map(len, found))
    for name, each in found.items():
        missing = f" Give {' and '.join(f'--{part}' for part in each.missing)}." if each.missing else ""
        print(f"{name:{width}}  {each.kind:8}  {each.about}{missing}")


def preview(
    recipe: RecipeOption = None,
    base: BaseOption = None,
    data: DataOption = None,
    max_steps: StepsOption = None,
    overrides: SetOption = None,
    n: Annotated[int, typer.Option("--n", help="Number of documents to show.")] = 2,
    block_size: Annotated[int | None, typer.Option(help="Of the noised copies. Default: the run's last size.")] = None,
) -> None:
    """Show the training data of a recipe: documents, noised copies, attention, block sizes, counts.

    With --data self, the base writes its first few documents, if no run has; a run then continues after them.
    """
    chosen = resolved_recipe(recipe, overrides, base, data, max_steps)
    from training.data.data_settings import SELF
    from training.planning.preview import preview as show
    from training.planning.preview import write_first_documents

    if chosen.data.source == SELF:
        write_first_documents(chosen, n)
    print(show(chosen, n, block_size))


def estimate(
    recipe: RecipeOption = None,
    base: BaseOption = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="As in adapt; the tokens of its rows are counted. Default: full rows are assumed."),
    ] = None,
    max_steps: StepsOption = None,
    overrides: SetOption = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    flops: Annotated[
        float | None, typer.Option(help="Floating-point operations per second. Default: measured on this machine.")
    ] = None,
    noised_share: Annotated[
        float | None,
        typer.Option(help="Noised tokens per clean token, as preview counts them. Default: counted in --data, else 1."),
    ] = None,
    processes: Annotated[int, typer.Option(help="Number of processes of the run.")] = 1,
    shard: Annotated[bool, typer.Option("--shard", help="Weights are split over the processes (FSDP2).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate memory and time of a run. Only the shape of the base is needed, not its weights."""
    from nbdiff_engine.errors import SettingError, brief

    if device not in ("cpu", "cuda"):
        raise SettingError(f"device is {brief(device)}; choose cpu or cuda.")
    chosen = resolved_recipe(recipe, overrides, base, data, max_steps, needs_data=False)
    from training.data.data_settings import SELF
    from training.planning.estimate import estimate as estimated
    from training.planning.estimate_table import table

    # The documents of `self` do not exist before the run.
    counts = data is not None and data != SELF and noised_share is None
    if chosen.optimisation.epochs is not None and chosen.data.source is None:
        raise SettingError(
            f"optimisation.epochs is {chosen.optimisation.epochs:g}, whose steps are counted in the data; give --data, "
            "or --max-steps instead."
        )
    if shard:
        chosen = chosen.model_copy(update={"shard": True})
    found = estimated(chosen, device, flops, 1.0 if noised_share is None else noised_share, processes, counts)
    print(json.dumps(found.to_json()) if as_json else table(found, device))


def corpus(
    domain: Annotated[str, typer.Option(help="math, code, knowledge or story.")] = "math",
    split: Annotated[str, typer.Option(help="train or test.")] = "train",
    n: Annotated[int, typer.Option("--n", help="Number of problems to show.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the corpus.")] = 0,
) -> None:
    """Show problems of the project's own corpus."""
    from nbdiff_engine.errors import SettingError, brief

    if n < 1:
        raise SettingError(f"n is {brief(n)}; it must be at least 1.")
    from training.corpus.samples import render

    print(render(domain, split, n, seed))


def recipe_and_folder(recipe: str | None, output: Path | None, resume: bool) -> tuple[str | None, Path]:
    """The recipe and the folder of a run, where an option was left out: those of the run to resume, or a new folder.

    Raises RunError if it is not said which run to resume.
    """
    from training.errors import RunError

    if resume and output is None:
        raise RunError("--resume needs --output, the folder of the run to continue.")
    if recipe is None and resume:
        recipe = str(output / "recipe.yaml")
    if output is None:
        output = Path("runs") / f"{Path(recipe or '').stem}-{datetime.now():%Y%m%d-%H%M%S}"
    return recipe, output


def resolved_recipe(
    recipe: str | None,
    overrides: list[str] | None,
    base: str | None,
    data: str | None,
    max_steps: int | None,
    needs_data: bool = True,
) -> "Recipe":
    """The recipe that the options of a command give.

    Raises RecipeError if it does not exist, is not valid, or names no base or no data. needs_data: False for a command
    that reads none.
    """
    from training.errors import RecipeError
    from training.recipe.recipe import Recipe

    if recipe is None:
        raise RecipeError("Give a --recipe: a bundled name (python -m training recipes lists them) or a YAML file.")
    chosen = Recipe.read(recipe, overrides, base=base, data__source=data, optimisation__max_steps=max_steps)
    chosen.require_inputs(needs_data)
    return chosen
