"""The HTML, CSS and JavaScript files of the page, as text."""

from nbdiff_engine.bundled_files import ASSETS

_FOLDER = ASSETS / "web"


def read(name: str) -> str:
    """The text of a file in assets/web."""
    return (_FOLDER / name).read_text(encoding="utf-8")
