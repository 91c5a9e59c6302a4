"""A local stand-in of the hub, and one of llama.cpp's converter."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """What the stand-in received. files: of the last commit, by their path in the repository. tokens: of all requests
    to routes of the hub. A browser of another test may still ask for a server that had this port before."""

    def __init__(self) -> None:
        self.created: list[dict] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, bytes] = {}
        self.cards: list[str] = []
        self.refuses = False
        self.address = ""


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A hub on this machine that creates repositories and takes commits, by the routes of the hub's own client."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def answer(self, found: object, status: int = 200) -> None:
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def note_token(self) -> None:
            if self.path.startswith("/api/"):
                hub.tokens.add(self.headers.get("Authorization"))

        def do_GET(self) -> None:
            self.note_token()
            self.answer({"id": "someone/mine", "sha": "0" * 40, "siblings": []})

        def do_POST(self) -> None:
            self.note_token()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if hub.refuses:
                self.answer({"error": "You have no right to write here"}, 403)
            elif self.path == "/api/repos/create":
                hub.created.append(json.loads(body))
                self.answer({"url": f"{hub.address}/someone/mine", "name": "someone/mine"})
            elif self.path == "/api/validate-yaml":
                hub.cards.append(json.loads(body)["content"])
                self.answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
                self.answer({"files": [{**each, "shouldIgnore": False} for each in files]})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer({"commitUrl": f"{hub.address}/someone/mine/commit/1", "commitOid": "1"})
            else:
                self.answer({"error": f"unexpected {self.path}"}, 500)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def converter(folder: Path, ending: str = "") -> Path:
    """A script that takes the converter's arguments, writes them after the magic of a GGUF file, and runs `ending`."""
    path = folder / "convert_hf_to_gguf.py"
    path.write_text(
        "import json, sys\n"
        f"{ending}\n"
        "open(sys.argv[sys.argv.index('--outfile') + 1], 'wb').write(b'GGUF' + json.dumps(sys.argv[1:]).encode())\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path
