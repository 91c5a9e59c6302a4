"""The folder of the files that are part of the project: checkpoints, held-out problems, web components."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "assets"  # an installed wheel has the folder inside the package (setup.py)

ASSETS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "assets"
