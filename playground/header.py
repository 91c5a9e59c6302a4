"""The header of the page: title, links, and block diffusion in three pictures."""

import html
import os

from playground.server.web_files import read

TITLE = "NBDiff playground"
PAPER = "https://arxiv.org/abs/2512.06776"


def header() -> str:
    """The header as HTML."""
    links = [f'<a href="{PAPER}">Paper</a>']
    if (source := source_address()) is not None:
        links.append(f'<a href="{html.escape(source)}">Source</a>')
    return f"<header><h1>{TITLE}</h1>{''.join(links)}{read('how_it_works.html')}</header>"


def source_address() -> str | None:
    """Where the code of this page can be read: NBDIFF_SOURCE, or the files of the Space. None without either."""
    given = os.environ.get("NBDIFF_SOURCE", "")
    if given.startswith("https://"):
        return given
    space = os.environ.get("SPACE_ID")
    return f"https://huggingface.co/spaces/{space}/tree/main" if space else None
