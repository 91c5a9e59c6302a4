"""The largest body of a request. Without a limit one request could take all memory of the server."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nbdiff_engine.serving.api_errors import ApiError

MOST_BYTES = 32 * 10**6  # a million tokens as text take about 4 MB
_TOO_LARGE = f"The body of the request is larger than {MOST_BYTES // 10**6} MB, the most that this server reads"


class BodyLimit:
    """ASGI middleware that refuses a larger body with status 413, before it is read as JSON."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > MOST_BYTES:
            error = ApiError(413, f"{_TOO_LARGE}.", "invalid_request_error")
            await JSONResponse(error.body, error.status)(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BYTES:  # a body in chunks, whose length is not declared
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self.app(scope, limited, send)
