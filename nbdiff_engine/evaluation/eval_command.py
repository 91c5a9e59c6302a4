"""`python -m nbdiff_engine eval`: accuracy, tokens per forward and speed on held-out problems or on your own.

python -m nbdiff_engine eval --limit 20
python -m nbdiff_engine eval --model nano --setting block_diffusion,block_size=8,threshold=0.7 --json
python -m nbdiff_engine eval --model nano --block-size 8,16,32 --threshold 0.5,0.7,0.9 --output run.json
python -m nbdiff_engine eval --model nano --problems my.jsonl --batch-size 8
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import NBDiffError, SettingError, brief, brief_text
from nbdiff_engine.evaluation.run import check_batch_size, evaluate
from nbdiff_engine.evaluation.settings_grid import (
    DEFAULT_SETTINGS,
    MAX_NEW_TOKENS,
    grid,
    label_of,
    listed,
    parse_setting,
)
from nbdiff_engine.evaluation.table import table
from nbdiff_engine.load_options import DtypeOption
from nbdiff_engine.model.checkpoint_folders import bundled_models
from nbdiff_engine.model.checkpoints import load
from nbdiff_engine.tasks import DOMAINS, Problem, held_out
from nbdiff_engine.tasks.problem_file import CHECKS, read_problems

DEFAULT_MODELS = ("nano-ar", "nano")  # the AR parent first: the others are compared with it
MANY_ANSWERS = 5000  # from this number on, a warning says that the run may take long


def eval_command(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Bundled name, folder or hub id; may be repeated. Default: nano-ar and nano."),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(DOMAINS)}, or a domain of --problems; may be repeated. Default: all."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Number of problems of each domain. Default: all.")] = None,
    problems: Annotated[
        Path | None,
        typer.Option(
            help="A .jsonl file of your own: each line has prompt and answer, and optionally domain, id, check "
            f"({', '.join(CHECKS)}) and facts. Default: the 400 held-out problems."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="Strategy and settings, as in block_diffusion,block_size=8,threshold=0.7; may be repeated. "
            "AR is always added. Default: ar, block_diffusion and self_speculative with blocks of 16."
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="Strategies of a grid: strategies x block sizes x thresholds, in addition to --setting. Each of these "
            "options may be repeated, or list values with commas. Default if another of them is given: all strategies."
        ),
    ] = None,
    block_size: Annotated[list[str] | None, typer.Option(help="Of the grid. Default: the checkpoint's.")] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(help="Of the grid, for block_diffusion with the policy confidence. Default: the checkpoint's."),
    ] = None,
    dtype: DtypeOption = "auto",
    max_new_tokens: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")] = MAX_NEW_TOKENS,
    batch_size: Annotated[int, typer.Option(help="Prompts per batch. 1 measures the time that one reader waits.")] = 1,
    run_code: Annotated[
        bool | None,
        typer.Option(
            "--run-code/--no-run-code",
            help="Run the programs in the answers to judge them. Default: only the programs of bundled models.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Also write the JSON object to this file, and each finished answer to a file next to it."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a stopped run: give the same command and --output.")
    ] = False,
) -> None:
    """Accuracy and speed of models under decode settings, on held-out problems or your own."""
    journal = _check_files(output, problems, resume)
    settings = choose_settings(setting, strategy, block_size, threshold)
    DecodeSettings.of(max_new_tokens=max_new_tokens)  # reports a mistake before a checkpoint is read
    check_batch_size(batch_size)
    chosen = choose_problems(domain, limit, None if problems is None else read_problems(problems))
    names = model or [name for name in DEFAULT_MODELS if name in bundled_models()]
    if not names:
        raise NBDiffError("No bundled model is here; name one with --model.")
    _say_what_is_long(len(settings or DEFAULT_SETTINGS), len(chosen), len(names))
    with _stop_said(journal):
        evaluation = evaluate(
            [load(name, dtype=dtype) for name in names],
            chosen,
            settings,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            run_code=run_code,
            journal=journal,
            resume=resume,
            progress=True,
        )
    text = json.dumps(evaluation.to_json(), allow_nan=False)
    print(text if as_json else table(evaluation))  # printed first: a full disk must not lose the results
    if output is not None:
        try:
            output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise NBDiffError(f"The figures cannot be written to {output}: {error.strerror}.") from error


def choose_settings(
    settings: list[str] | None,
    strategies: list[str] | None,
    block_sizes: list[str] | None,
    thresholds: list[str] | None,
) -> list[DecodeSettings] | None:
    """The settings given one by one, then those of the grid; None if neither is given. Raises SettingError."""
    chosen = [parse_setting(text) for text in settings or ()]
    if strategies or block_sizes or thresholds:
        known = {label_of(each) for each in chosen}
        every = grid(listed(strategies), listed(block_sizes), listed(thresholds))
        chosen += [each for each in every if label_of(each) not in known]
    return chosen or None


def choose_problems(domains: list[str] | None, limit: int | None, own: list[Problem] | None = None) -> list[Problem]:
    """The problems of some domains, at most `limit` of each. own: the user's problems; None: the held-out ones. Raises
    SettingError."""
    known = DOMAINS if own is None else tuple(dict.fromkeys(problem.domain for problem in own))
    for name in domains or ():
        if name not in known:
            raise SettingError(f"domain is {brief(name)}; choose one of {', '.join(known)}.")
    if limit is not None and limit < 1:
        raise SettingError(f"limit is {brief(limit)}; it must be at least 1.")
    every = held_out() if own is None else own
    return [
        problem
        for name in known
        if not domains or name in domains
        for problem in [each for each in every if each.domain == name][:limit]
    ]


def _check_files(output: Path | None, problems: Path | None, resume: bool) -> Path | None:
    """The path of the journal of answers, next to the output. Raises NBDiffError if a file cannot be written."""
    if output is None:
        if resume:
            raise NBDiffError("--resume needs --output, beside which the answers of the run were kept.")
        return None
    reason = _why_not_a_file(output)
    journal = output if reason else output.with_suffix(".answers.jsonl")
    reason = reason or _why_not_a_file(journal)
    if reason:
        raise NBDiffError(f"The figures cannot be written to {brief_text(str(output), 200)}: {reason}.")
    for path in (output, journal):
        if problems is not None and path.absolute() == problems.absolute():
            raise NBDiffError(f"The figures would be written over {problems}; choose another --output.")
    return journal


def _why_not_a_file(path: Path) -> str:
    """The reason why no file of that name can be written; "" if it can."""
    try:
        if path.is_dir():
            return "that is a folder"
        if not path.absolute().parent.is_dir():
            return f"the folder {path.parent} does not exist"
    except (OSError, ValueError) as error:  # an invalid file name
        return getattr(error, "strerror", None) or str(error)
    return ""


def _say_what_is_long(settings: int, problems: int, models: int) -> None:
    answers = settings * problems * models
    if answers >= MANY_ANSWERS:
        several = f" x {models} models" if models > 1 else ""
        print(
            f"warning: {settings} settings x {problems} problems{several} are {answers:,} answers, which may take "
            "long; --limit takes fewer problems, --output keeps what is done",
            file=sys.stderr,
        )


@contextmanager
def _stop_said(journal: Path | None) -> Iterator[None]:
    """If the user stops the run, print how to resume it."""
    try:
        yield
    except KeyboardInterrupt:
        if journal is not None and journal.exists():
            print(f"stopped: {journal} keeps the answers; the same command with --resume continues", file=sys.stderr)
        raise
