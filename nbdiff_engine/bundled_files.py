"""Where the files that come with the project lie: checkpoints, held-out problems, web components."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
