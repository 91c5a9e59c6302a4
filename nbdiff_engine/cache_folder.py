"""The folder of files that the engine makes for itself and can make again."""

import os
from pathlib import Path

import platformdirs


def cache_home() -> Path:
    """NBDIFF_HOME if that is set, else the user's cache. Created at the first write."""
    home = os.environ.get("NBDIFF_HOME") or platformdirs.user_cache_dir("nbdiff")
    return Path(home).expanduser()
