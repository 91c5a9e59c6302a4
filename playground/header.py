"""The header of the page: title, links, what the model is and knows, and block diffusion in three pictures."""

import html
import os

from nbdiff_engine import BlockModel
from playground.server.web_files import read

TITLE = "NBDiff playground"
PAPER = "https://arxiv.org/abs/2512.06776"
# What the bundled models were trained on: a visitor cannot guess it from their names.
KNOWS = {"nano": "word problems, tiny Python functions, country and animal facts, short stories"}


def header(model: BlockModel) -> str:
    """The header as HTML."""
    links = [f'<a href="{PAPER}">Paper</a>']
    if (source := source_address()) is not None:
        links.append(f'<a href="{html.escape(source)}">Source</a>')
    return (
        f"<header><h1>{TITLE}</h1>{''.join(links)}{read('how_it_works.html')}"
        f"<p>{html.escape(about(model))}</p></header>"
    )


def about(model: BlockModel) -> str:
    """The model in one line."""
    size = model.parameters
    parameters = f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:.1f}M"
    knows = KNOWS.get(model.name.removesuffix("-ar"))
    if knows is not None:
        return f"{model.name}, a toy of {parameters} parameters: {knows}."
    blocks = (
        "writes one token at a time only" if model.spec is None else f"trained for blocks of {model.spec.block_size}"
    )
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{model.name}, {parameters} parameters, {blocks}, {dtype} on {model.device}."


def source_address() -> str | None:
    """Where the code of this page can be read: NBDIFF_SOURCE, or the files of the Space. None without either."""
    given = os.environ.get("NBDIFF_SOURCE", "")
    if given.startswith("https://"):
        return given
    space = os.environ.get("SPACE_ID")
    return f"https://huggingface.co/spaces/{space}/tree/main" if space else None
