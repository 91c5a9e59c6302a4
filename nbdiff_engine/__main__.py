"""The engine's command line.

    python -m nbdiff_engine generate "What is the capital of Peru?" --model nano --strategy self_speculative
    python -m nbdiff_engine generate "What is the capital of Peru?" --json --trace peru.json
    python -m nbdiff_engine generate --messages conversation.json --template-argument enable_thinking=false
    python -m nbdiff_engine models
    python -m nbdiff_engine serve nano --port 8000
    python -m nbdiff_engine eval --limit 20
    python -m nbdiff_engine export nano --to hf --output exported
    python -m nbdiff_engine lm-eval run --model nbdiff --model_args model=nano --tasks gsm8k

Invalid input gives one sentence on standard error and exit code 2.
"""

import dataclasses
import inspect
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nbdiff_engine.decoding.setting_fields import is_list
from nbdiff_engine.decoding.settings import SETTING_FIELDS, DecodeSettings
from nbdiff_engine.errors import NBDiffError
from nbdiff_engine.evaluation.eval_command import eval_command
from nbdiff_engine.generate import prepare, text_pieces
from nbdiff_engine.lm_eval_adapter.lm_eval_command import run as run_harness
from nbdiff_engine.load_options import (
    MODEL,
    AdapterOption,
    BaseOption,
    DeviceMapOption,
    DeviceOption,
    DtypeOption,
    QuantizationOption,
)
from nbdiff_engine.model.checkpoints import load
from nbdiff_engine.model.description import describe_named
from nbdiff_engine.model.threads import choose_threads
from nbdiff_engine.prompt_options import print_any_text, read_prompt, template_arguments
from nbdiff_engine.serving.serve_command import serve_command

cli = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # an error is one line, not a box
    help="Decode block-diffusion language models.",
    epilog="Installed as nbdiff; the page is nbdiff-playground, training is nbdiff-train.",
)


def with_setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of DecodeSettings, in place of its **settings.

    The options come before the command's keyword-only parameters. A field with the name of one of the command's own
    parameters gets no option. Only DecodeSettings checks the values, so a choice is an option of type text.
    """
    types = {"choice": str, "integer": int, "number": float, "flag": bool}
    own = list(inspect.signature(command).parameters.values())
    assert own.pop().kind is inspect.Parameter.VAR_KEYWORD
    options = []
    for field in SETTING_FIELDS.values():
        if any(each.name == field.name for each in own):
            continue
        flag = field.name.replace("_", "-")
        flags = ([f"--{flag}/--no-{flag}"] if field.default else [f"--{flag}"]) if field.kind == "flag" else []
        help_text = field.description[0].upper() + field.description[1:] + "."
        bare = types.get(field.kind, list[str])  # a list's entries are texts; DecodeSettings reads them
        bare = bare | None if field.optional or is_list(field) else bare
        options.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if is_list(field) else field.default,
                annotation=Annotated[bare, typer.Option(*flags, help=help_text)],
            )
        )
    before = [each for each in own if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    command.__signature__ = inspect.Signature([*before, *options, *own[len(before) :]])
    return command


@cli.command()
@with_setting_options
def generate(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="The user's message; '-' reads it from standard input.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option(help=MODEL)] = "nano",
    *,
    base: BaseOption = None,
    adapter: AdapterOption = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Use the prompt as plain text, without the chat template.")
    ] = False,
    messages: Annotated[
        Path | None,
        typer.Option(help="Read a conversation from this JSON file; a last turn of the assistant is continued."),
    ] = None,
    template_argument: Annotated[
        list[str] | None, typer.Option(help="name=json: an argument for the chat template; may be repeated.")
    ] = None,
    control_tokens: Annotated[
        bool,
        typer.Option("--control-tokens", help="Names such as <|im_end|> in the prompt are control tokens, not text."),
    ] = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
    device_map: DeviceMapOption = None,
    trace: Annotated[Path | None, typer.Option(help="Write the trace of the answer to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object after the whole answer.")] = False,
    **settings: Any,
) -> None:
    """Answer a prompt; the text appears as its tokens become final."""
    if trace is not None and not trace.absolute().parent.is_dir():
        raise NBDiffError(f"The trace cannot be written to {trace}: the folder {trace.parent} does not exist.")
    if trace is not None and trace.is_dir():
        raise NBDiffError(f"The trace cannot be written to {trace}: that is a folder.")
    # Only what was typed is given: with --settings checkpoint an option's default must not replace the checkpoint's.
    settings = {n: each for n, each in settings.items() if context.get_parameter_source(n).name != "DEFAULT"}
    settings["trace"] = trace is not None
    DecodeSettings.of(**settings)  # reports a mistake before many gigabytes of a checkpoint are read
    asked, arguments = read_prompt(prompt, messages), template_arguments(template_argument)
    how = {"dtype": dtype, "device": device, "quantization": quantization, "device_map": device_map}
    loaded = load(model, base=base, adapter=adapter, **how)
    choose_threads(loaded)
    job = prepare(loaded, asked, raw=raw, control_tokens=control_tokens, template_arguments=arguments, **settings)
    for note in job.plan.notes:
        print(f"warning: {note}", file=sys.stderr)
    events = []
    for piece in text_pieces(job, job.events(), events.append):
        if not as_json:
            print(piece, end="", flush=True)
    output = job.output(0, events)
    if as_json:
        logs = {} if output.logprobs is None else {"logprobs": [dataclasses.asdict(each) for each in output.logprobs]}
        print(
            json.dumps(
                {
                    "text": output.text,
                    "token_ids": output.token_ids,
                    "finish_reason": output.finish_reason,
                    "settings": {"model": model, **output.settings},
                    "metrics": dataclasses.asdict(output.metrics),
                    **logs,
                }
            )
        )
    else:
        print()
    if output.trace is not None:
        output.trace.save(trace)


@cli.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the models that load by name: the bundled ones, and those of a package."""
    found = describe_named()
    if as_json:
        print(json.dumps([dataclasses.asdict(each) for each in found]))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        here = "" if each.origin is not None else f"  not installed: {each.how_to_install}"
        facts = f"{each.parameters / 1e6:6.1f}M  {each.dtype:9} {each.kind:18} {each.architecture}"
        print(f"{each.name:{width}} {facts}{here}")


cli.command("eval")(eval_command)
cli.command("serve")(serve_command)


@cli.command(
    "lm-eval",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness with this engine as --model nbdiff (docs/harness.md)."""
    run_harness(context.args)


@cli.command(
    "export",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
def export(context: typer.Context) -> int:
    """Write a run, a model or an adapter for other programs, or upload it; --help lists its options."""
    # In a separate process, because the engine does not import training.
    return subprocess.run([sys.executable, "-m", "training", "export", *context.args], check=False).returncode


def main() -> None:
    """Run the command line; invalid input gives one sentence and exit code 2."""

    def show(message: Warning | str, *args: object, **kwargs: object) -> None:
        print(f"warning: {message}", file=sys.stderr)

    print_any_text()
    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            code = cli(standalone_mode=False)
        except NBDiffError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except typer.TyperException as error:
            print(f"error: {error.format_message()} (--help lists commands and options)", file=sys.stderr)
            sys.exit(2)
        except (typer.Abort, KeyboardInterrupt):
            sys.exit(130)
        sys.exit(code)


if __name__ == "__main__":
    main()
