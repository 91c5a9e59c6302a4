"""The command `export`: a run, a model or an adapter as files that other programs load.

python -m training export runs/mine --to hf --output exported
python -m training export runs/mine --to adapter --output exported
python -m training export nano --to gguf --output exported --converter llama.cpp/convert_hf_to_gguf.py
python -m training export runs/mine --to hub --repo you/my-model --output exported
python -m training export runs/mine --check

`nbdiff export` is the same command.
"""

import shlex
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from training.sharing.export_source import Source


class Target(StrEnum):
    hf = "hf"
    adapter = "adapter"
    gguf = "gguf"
    hub = "hub"


class Form(StrEnum):
    hf = "hf"
    adapter = "adapter"
    gguf = "gguf"


SourceArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a run, a model or an adapter, or a name.")
]
ToOption = Annotated[
    Target | None,
    typer.Option(
        help="hf: a folder for transformers, vLLM and SGLang. adapter: a PEFT folder. gguf: by llama.cpp's converter. "
        "hub: hf or adapter, then an upload. Default: hf, or adapter for a draft adapter."
    ),
]
StepOption = Annotated[
    int | None,
    typer.Option(help="Checkpoint to export. Default: the finished model; of a run that continues, the newest."),
]
OutputOption = Annotated[Path | None, typer.Option(help="Write the export into a new folder in here.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Only say which servers can load it, and how.")]
MergedOption = Annotated[bool, typer.Option("--merged", help="With adapter: write the base with the adapter merged.")]
ConverterOption = Annotated[Path | None, typer.Option(help="llama.cpp's convert_hf_to_gguf.py. Default: on PATH.")]
OuttypeOption = Annotated[
    str | None, typer.Option(help="Values of a GGUF file: auto, f32, f16, bf16 or q8_0. Default: auto.")
]
RepoOption = Annotated[str | None, typer.Option(help="With hub: owner/name. The token is the variable HF_TOKEN.")]
FormOption = Annotated[Form | None, typer.Option("--as", help="With hub: what is uploaded. Default: as without --to.")]
PublicOption = Annotated[bool, typer.Option("--public", help="With hub: anyone can read it. Default: only its owner.")]
YesOption = Annotated[bool, typer.Option("--yes", help="With hub: upload without asking first.")]
LicenceOption = Annotated[str | None, typer.Option("--licence", help="For the model card, as the hub names it: mit.")]


def export(
    run: SourceArgument,
    to: ToOption = None,
    step: StepOption = None,
    output: OutputOption = None,
    check: CheckOption = False,
    merged: MergedOption = False,
    converter: ConverterOption = None,
    outtype: OuttypeOption = None,
    repo: RepoOption = None,
    form: FormOption = None,
    public: PublicOption = False,
    yes: YesOption = False,
    licence: LicenceOption = None,
) -> None:
    """Write a run, a model or an adapter as files that other programs load, with a model card; or upload them."""
    from training.errors import RunError
    from training.sharing import hub_upload, servers
    from training.sharing.export_source import find_source
    from training.sharing.exports import Options, write_export

    if check:
        others = {"--to": to, "--step": step, "--output": output, "--merged": merged, "--licence": licence}
        others |= {"--converter": converter, "--outtype": outtype, "--repo": repo, "--as": form}
        others |= {"--public": public, "--yes": yes}
        _refuse(others, "does not apply to --check, which writes nothing; leave one of them out.")
        print(servers.shown(servers.servers_for(_folder_to_check(find_source(run)))))
        return
    if output is None:
        raise RunError("Give --output, the folder to write to, or --check.")
    if to is not Target.hub:
        hub_only = {"--repo": repo, "--as": form, "--public": public, "--yes": yes}
        _refuse(hub_only, "is for --to hub; leave it out, or give --to hub.")
    source = find_source(run, step)
    own = Form.adapter if source.kind == "draft" else Form.hf
    chosen = (form or own) if to is Target.hub else own if to is None else Form(to)
    if chosen is not Form.gguf:
        gguf_only = {"--converter": converter, "--outtype": outtype}
        _refuse(gguf_only, "is for a GGUF file; leave it out, or give --to gguf (with --to hub: --as gguf).")
    if to is Target.hub:  # refused before anything is written
        hub_upload.planned(repo, output, not public)
    options = Options(merged, converter, outtype or "auto", licence, to is Target.hub)
    done = write_export(source, str(chosen), output, options)
    print(done.folder)
    for sentence in done.facts:
        print(f"  {sentence}")
    if done.servers:
        print(servers.shown(done.servers))
    if to is Target.hub:
        upload = hub_upload.planned(repo, done.folder, not public)
        if not (yes or _agreed(upload)):
            print("Nothing was uploaded.")
            return
        print(hub_upload.send(upload))


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Raise RunError for the first of these options that is given."""
    from nbdiff_engine.errors import brief_text
    from training.errors import RunError

    for name, value in options.items():
        if value is not None and value is not False:
            given = name if value is True else f"{name} {shlex.quote(str(value))}"
            raise RunError(f"{brief_text(given)} {why}")


def _folder_to_check(source: "Source") -> Path:
    """Raises RunError for a run that is not finished: its checkpoints are not what a server loads."""
    from training.errors import RunError

    if source.folder is None:
        raise RunError(
            f"The run {source.run.name} is not finished, so there is nothing to check yet; export its newest "
            "checkpoint with --output, which says the same."
        )
    return source.folder


def _agreed(upload: object) -> bool:
    """Whether the person agrees to the upload. Raises RunError if there is nobody to ask."""
    from training.errors import RunError

    if not sys.stdin.isatty():
        raise RunError(f"This would upload {upload}. Give --yes to do it, as nobody can be asked here.")
    return typer.confirm(f"Upload {upload}?")
