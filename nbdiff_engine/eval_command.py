"""`python -m nbdiff_engine eval`: accuracy, tokens per forward and speed on the held-out problems.

python -m nbdiff_engine eval --limit 20
python -m nbdiff_engine eval --model nano --setting block_diffusion,block_size=8,threshold=0.7 --json
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from nbdiff_engine.checkpoints import bundled_models, load
from nbdiff_engine.errors import NBDiffError, SettingError, brief
from nbdiff_engine.evaluation import MAX_NEW_TOKENS, evaluate
from nbdiff_engine.settings import DecodeSettings
from nbdiff_engine.tasks import DOMAINS, Problem, held_out

DEFAULT_MODELS = ("nano-ar", "nano")  # the AR parent first: it is what the others are compared with


def eval_command(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Bundled name, folder or hub id; may be repeated. Default: nano-ar and nano."),
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(DOMAINS)}; may be repeated. Default: all.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Problems of each domain. Default: all.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="Strategy and settings, as in block_diffusion,block_size=8,threshold=0.7; may be repeated. "
            "AR is always decoded too. Default: ar, block_diffusion and self_speculative with blocks of 16."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    max_new_tokens: Annotated[int, typer.Option(help="Answers are cut here.")] = MAX_NEW_TOKENS,
    run_code: Annotated[
        bool | None,
        typer.Option(
            "--run-code/--no-run-code",
            help="Run the programs that the models write, to judge them. Default: those of bundled models.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the JSON object to this file too.")] = None,
) -> None:
    """Accuracy and speed of models under decode settings, on held-out problems."""
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        reason = "that is a folder" if output.is_dir() else f"the folder {output.parent} does not exist"
        raise NBDiffError(f"The figures cannot be written to {output}: {reason}.")
    settings = [parse_setting(text) for text in setting] if setting else None
    DecodeSettings.of(max_new_tokens=max_new_tokens)  # a slip is said before a checkpoint is read
    problems = choose_problems(domain, limit)
    names = model or [name for name in DEFAULT_MODELS if name in bundled_models()]
    if not names:
        raise NBDiffError("No bundled model is here; name one with --model.")
    models = [load(name, dtype=dtype) for name in names]
    evaluation = evaluate(models, problems, settings, max_new_tokens=max_new_tokens, run_code=run_code, progress=True)
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    print(text if as_json else evaluation.table())  # first: a full disk must not cost the figures
    if output is not None:
        try:
            output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise NBDiffError(f"The figures cannot be written to {output}: {error.strerror}.") from error


def parse_setting(text: str) -> DecodeSettings:
    """ "block_diffusion,block_size=8,threshold=0.7" as settings. Raises SettingError with one sentence."""
    where = f"The setting {brief(text)} is not one"
    strategy, *rest = (part.strip() for part in text.split(","))
    if not strategy or "=" in strategy:
        raise SettingError(f"{where}: it begins with the strategy, as in block_diffusion,block_size=8.")
    fields: dict[str, object] = {"strategy": strategy}
    for part in rest:
        name, sign, value = (each.strip() for each in part.partition("="))
        if not sign or not name or not value:
            raise SettingError(f"{where}: {brief(part)} is no name=value.")
        if name == "trace":
            raise SettingError(f"{where}: an evaluation never records traces.")
        if name in fields:
            raise SettingError(f"{where}: {name} stands in it twice.")
        fields[name] = value
    try:
        return DecodeSettings.of(**fields)
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from error


def choose_problems(domains: list[str] | None, limit: int | None) -> list[Problem]:
    """The held-out problems of some domains, at most `limit` of each. Raises SettingError."""
    for name in domains or ():
        if name not in DOMAINS:
            raise SettingError(f"domain is {brief(name)}; choose one of {', '.join(DOMAINS)}.")
    if limit is not None and limit < 1:
        raise SettingError(f"limit is {brief(limit)}; it must be at least 1.")
    chosen = [name for name in DOMAINS if not domains or name in domains]
    return [problem for name in chosen for problem in held_out(name, limit)]
