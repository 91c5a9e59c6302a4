"""Opens the playground: block-diffusion decoding beside autoregressive decoding, live in the browser.

    nbdiff-playground                                # the bundled model on http://127.0.0.1:7860
    nbdiff-playground --model path/to/checkpoint --port 7861
    NBDIFF_LOGIN=name:password nbdiff-playground --host 0.0.0.0

The same command is `python -m playground`, and `python app.py` in a checkout of the repository.
The engine has the command `nbdiff` (python -m nbdiff_engine), training has `nbdiff-train` (python -m training).
Bad options are one sentence on standard error and exit code 2.
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import playground
from playground.options import ServerOptions, StartError


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text around it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parse(arguments: list[str]) -> ServerOptions:
    """Command line to options. Exits with code 2 and one sentence where it makes no sense."""
    # A Space is a container that its owner has published: its proxy reaches the server from another address.
    space = "SPACE_ID" in os.environ
    default = ServerOptions(host="0.0.0.0", space=True) if space else ServerOptions()
    parser = OneLineParser(
        prog=_program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="To bind anything but this machine, set NBDIFF_LOGIN=name:password in the environment.",
        allow_abbrev=False,
    )
    for name, kind, text in (
        ("model", str, "bundled name, folder or hub id"),
        ("host", str, "address to bind"),
        ("port", int, "port to bind"),
        ("max-new-tokens", int, "most tokens of an answer"),
        ("max-prompt-chars", int, "most characters of a prompt"),
        ("max-lanes", int, "most lanes of a run"),
        ("max-problems", int, "most held-out problems of a run in Block sizes"),
        ("queue", int, "most runs that may wait"),
        ("trace-mb", float, "most megabytes of trace that a run may keep"),
        ("wall-seconds", float, "most seconds of a run"),
        ("lease-seconds", float, "a run that nobody has watched for so long is ended"),
        ("max-models", int, "most models that are loaded at once"),
        ("max-model-gb", float, "most gigabytes of a model that the page may load"),
    ):
        value = getattr(default, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=value, metavar=name.upper(), help=f"{text} ({value})")
    parser.add_argument(
        "--model-root",
        dest="model_roots",
        action="append",
        default=[],
        metavar="FOLDER",
        help="the page may load checkpoints inside this folder; may be given several times",
    )
    parser.add_argument("--hub", action="store_true", help="the page may load models from the hub by their id")
    parser.add_argument(
        "--training",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the page may start training jobs (on where only this machine is bound, else off)",
    )
    given = vars(parser.parse_args(arguments))
    given["model_roots"] = tuple(Path(root) for root in given["model_roots"])
    try:
        return ServerOptions(login=os.environ.get("NBDIFF_LOGIN"), space=space, **given)
    except StartError as error:
        parser.error(str(error))


def _program() -> str:
    """The program's name as the person typed it."""
    name = Path(sys.argv[0]).name
    return "python -m playground" if name == "__main__.py" else name


def main() -> None:
    """Serve the page with the options of the command line, until Ctrl+C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio requests its own page once; that needs no log line
    options = parse(sys.argv[1:])
    try:
        playground.build(options).launch()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
