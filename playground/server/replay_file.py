"""The sources of the race player, and the HTML file that replays a race without a server.

    python -m playground.server.replay_file race.json race.html

The same classes run on the Gradio page, where `stage.js` starts them, and in that file, where `replay.js` starts them.
The page fills the same slots in the browser (assets/web/files.js), so a visitor exports the same file.
"""

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from playground.server.tables import player_tables
from playground.server.web_files import read

STYLES = ("stage.css", "player.css", "reading.css", "strip.css")
CLASSES = (  # in the order in which they are loaded; the file that starts them comes last
    "words.js",
    "measure.js",
    "trace.js",
    "grid.js",
    "markdown.js",
    "difference.js",
    "reading.js",
    "lane.js",
    "inspector.js",
    "scrubber.js",
    "mask.js",
    "strip.js",
    "files.js",
    "player.js",
)
SLOT = re.compile(r"<!--(title|css|html|tables|race|js)-->")


def styles() -> str:
    """The player's CSS, to be nested under the id of its container."""
    return "\n".join(read(name) for name in STYLES)


def script(start: str) -> str:
    """The player's JavaScript as the body of one function. start: name of the file that starts the player."""
    own = ("memory.js", start) if start == "stage.js" else (start,)
    return "\n".join(read(name) for name in (*CLASSES, *own))


def sources() -> dict[str, str]:
    """The parts of a replay file: the page with its slots, and the contents of four of the slots."""
    return {
        "page": read("replay.html"),
        "css": styles(),
        "html": read("stage.html"),
        "tables": _embeddable(player_tables()),
        "js": script("replay.js"),
    }


def replay_html(race: dict[str, Any]) -> str:
    """An HTML file that replays a race (the JSON of a race file) from disk and makes no request."""
    parts = sources()
    slots = {
        "title": html.escape(str(race.get("title", "")), quote=False),
        "race": _embeddable(race),
        **{name: parts[name] for name in ("css", "html", "tables", "js")},
    }
    return SLOT.sub(lambda slot: slots[slot[1]], parts["page"])


def _embeddable(data: dict[str, Any]) -> str:
    """JSON inside a script element. Token texts may contain "</script>", which would end it, so "<" is escaped."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(replay_html(json.loads(source.read_text(encoding="utf-8"))), encoding="utf-8")
