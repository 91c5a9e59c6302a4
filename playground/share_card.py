"""What a link to this page looks like elsewhere: its own title, sentence and image instead of Gradio's."""

import html
import re
from functools import cache
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from nbdiff_engine.bundled_files import ASSETS
from playground.header import TITLE

SENTENCE = "Watch block diffusion decode text several tokens at a time, beside the same model one token at a time."
PATH = "/share.png"
_OTHER_CARD = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*>')


class ShareCard:
    """ASGI middleware: serves the image, and replaces the tags of Gradio's card in the page."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] == PATH:
            return await Response(_image(), media_type="image/png")(scope, receive, send)
        started: dict[str, Any] | None = None  # the beginning of an HTML page, held back until its length is known
        body = bytearray()

        async def replaced(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if Headers(scope=message).get("content-type", "").startswith("text/html"):
                    started = message
                    return None
            elif started is not None:
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    return None
                page = with_card(bytes(body), _address(scope))
                MutableHeaders(scope=started)["content-length"] = str(len(page))
                await send(started)
                return await send({"type": "http.response.body", "body": page})
            return await send(message)

        return await self.app(scope, receive, replaced)


def with_card(page: bytes, address: str) -> bytes:
    """The HTML of the page with our card. address: of the server, without a slash at its end."""
    tags = {
        'property="og:type"': "website",
        'property="og:title"': TITLE,
        'property="og:description"': SENTENCE,
        'property="og:image"': address + PATH,
        'name="twitter:card"': "summary_large_image",
        'name="description"': SENTENCE,
    }
    card = "".join(f'<meta {name} content="{html.escape(value)}">' for name, value in tags.items())
    return _OTHER_CARD.sub(b"", page).replace(b"<head>", b"<head>" + card.encode(), 1)


def _address(scope: Any) -> str:
    """The address that the browser has asked, also behind a proxy that ends TLS."""
    headers = Headers(scope=scope)
    scheme = headers.get("x-forwarded-proto", scope.get("scheme", "http")).split(",")[0].strip()
    return f"{'https' if scheme == 'https' else 'http'}://{headers.get('host', '')}"


@cache
def _image() -> bytes:
    return (ASSETS / "web" / "share.png").read_bytes()
