"""What a link to this page looks like elsewhere: a title, a sentence and an image, instead of Gradio's own."""

import os

import gradio as gr
from starlette.responses import Response
from starlette.routing import Route

from nbdiff_engine.bundled_files import ASSETS
from playground.header import TITLE
from playground.options import ServerOptions

SENTENCE = "Watch block diffusion decode text several tokens at a time, beside the same model one token at a time."
PATH = "/share.png"


def add(blocks: gr.Blocks, options: ServerOptions) -> None:
    """Give a launched page its title, sentence and image. The image is served without a login: it shows no content."""
    image = (ASSETS / "web" / "share.png").read_bytes()

    def share(_: object) -> Response:
        return Response(image, media_type="image/png")

    # Before the routes of Gradio, the last of which takes every path.
    blocks.app.router.routes.insert(0, Route(PATH, share))
    host = os.environ.get("SPACE_HOST")
    base = f"https://{host}" if options.space and host else (blocks.local_url or "").rstrip("/")
    blocks.config |= {"title": TITLE, "simple_description": SENTENCE, "thumbnail": base + PATH}
