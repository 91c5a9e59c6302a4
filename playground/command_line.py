"""Start the playground: block-diffusion and autoregressive decoding, live in the browser.

    nbdiff-playground                                # the bundled model on http://127.0.0.1:7860
    nbdiff-playground --model path/to/checkpoint --port 7861
    nbdiff-playground --server http://127.0.0.1:8000      # the model of a running `nbdiff serve`
    NBDIFF_LOGIN=name:password nbdiff-playground --host 0.0.0.0

The same command is `python -m playground`, and `python app.py` in a checkout of the repository.
The engine has the command `nbdiff` (python -m nbdiff_engine); training has `nbdiff-train` (python -m training).
A wrong option prints one sentence on standard error and exits with code 2.
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
    """Prints an error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parse(arguments: list[str]) -> ServerOptions:
    """Command line to options. A wrong option exits with code 2 and one sentence."""
    # A Space is a published container: its proxy connects from another address, so the server binds all of them.
    space = "SPACE_ID" in os.environ
    default = ServerOptions(host="0.0.0.0", space=True) if space else ServerOptions()
    parser = OneLineParser(
        prog=_program(),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="To let other machines connect, set NBDIFF_LOGIN=name:password in the environment.",
        allow_abbrev=False,
    )
    for name, kind, text in (
        ("host", str, "address to bind"),
        ("port", int, "port to bind"),
        ("max-new-tokens", int, "largest number of tokens of an answer"),
        ("max-prompt-chars", int, "largest number of characters of a prompt"),
        ("max-lanes", int, "largest number of lanes of a run"),
        ("max-problems", int, "largest number of held-out problems of a run in Block sizes"),
        ("queue", int, "largest number of runs in the queue"),
        ("trace-mb", float, "largest trace of a run, in megabytes"),
        ("wall-seconds", float, "longest time of a run, in seconds"),
        ("lease-seconds", float, "a run without a viewer is stopped after this time, in seconds"),
        ("max-models", int, "largest number of loaded models"),
        ("max-model-gb", float, "largest model that the page may load, in gigabytes"),
    ):
        value = getattr(default, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=value, metavar=name.upper(), help=f"{text} ({value})")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="bundled name, folder, GGUF file, LoRA folder or hub id (default: smollm2-drafts where the package of "
        "smollm2 is installed, with nano beside it; else nano)",
    )
    parser.add_argument(
        "--server", metavar="URL", help="decode with the models of this `nbdiff serve`; no model is loaded here"
    )
    parser.add_argument(
        "--api-key", metavar="KEY", help="what that server needs (default: NBDIFF_API_KEY in the environment)"
    )
    parser.add_argument(
        "--model-root",
        dest="model_roots",
        action="append",
        default=[],
        metavar="FOLDER",
        help="the page may load checkpoints inside this folder; may be repeated",
    )
    parser.add_argument("--hub", action="store_true", help="the page may load models from the hub")
    parser.add_argument(
        "--training",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the page may start training jobs (default: only if no other machine can connect)",
    )
    given = vars(parser.parse_args(arguments))
    if given["server"] is None and given["api_key"] is not None:
        parser.error("--api-key is for --server; give both, or none.")
    given["api_key"] = given["api_key"] or os.environ.get("NBDIFF_API_KEY") or None
    given["model_roots"] = tuple(Path(root) for root in given["model_roots"])
    try:
        return ServerOptions(login=os.environ.get("NBDIFF_LOGIN"), space=space, **given)
    except StartError as error:
        parser.error(str(error))


def _program() -> str:
    """The name of the program as it was typed."""
    name = Path(sys.argv[0]).name
    return "python -m playground" if name == "__main__.py" else name


def main() -> None:
    """Serve the page with the options of the command line, until Ctrl+C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio requests its own page once
    options = parse(sys.argv[1:])
    try:
        playground.build(options).launch()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
