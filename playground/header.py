"""The header of the page: title, links, and block diffusion in three pictures."""

import html
import os
from importlib.metadata import PackageNotFoundError, metadata

from playground.server.web_files import read

TITLE = "NBDiff playground"
PAPER = "https://arxiv.org/abs/2512.06776"
_PACKAGE = "nbdiff-playground"
_SOURCE_LABELS = {"source", "source code", "repository"}  # of Project-URL in a package's metadata


def header() -> str:
    """The header as HTML."""
    links = [f'<a href="{PAPER}">Paper</a>']
    if (source := source_address()) is not None:
        links.append(f'<a href="{html.escape(source)}">Source</a>')
    return f"<header><h1>{TITLE}</h1>{''.join(links)}{read('how_it_works.html')}</header>"


def source_address() -> str | None:
    """Where the code of this page can be read: the files of the Space, or what the installed package names as its
    source. None if it names none: a link that leads nowhere would be worse than no link."""
    space = os.environ.get("SPACE_ID")
    if space:
        return f"https://huggingface.co/spaces/{space}/tree/main"
    try:
        addresses = metadata(_PACKAGE).get_all("Project-URL") or ()
    except PackageNotFoundError:  # a checkout that is not installed
        return None
    for label, _, address in (each.partition(", ") for each in addresses):
        if label.lower() in _SOURCE_LABELS and address.startswith("https://"):
            return address
    return None
