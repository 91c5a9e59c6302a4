"""The HTTP server: the routes of OpenAI's API that this engine has, /health, /metrics and /docs."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from nbdiff_engine.errors import NBDiffError, SettingError, brief
from nbdiff_engine.generate import DecodeJob, prepare
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.serving.api_errors import ApiError
from nbdiff_engine.serving.asking import Asking, checked
from nbdiff_engine.serving.body_limit import BodyLimit
from nbdiff_engine.serving.replies import HttpReply, trace_head
from nbdiff_engine.serving.request_fields import ChatBody, CompletionBody
from nbdiff_engine.serving.scheduler import Scheduler, SchedulerLimits
from nbdiff_engine.serving.served_model import ServedModel
from nbdiff_engine.serving.server_metrics import ServerMetrics
from nbdiff_engine.serving.tool_calls import for_template

MOST_TOKENS = 512  # of an answer, if a request does not say


def make_app(
    model: BlockModel,
    name: str | None = None,
    api_key: str | None = None,
    limits: SchedulerLimits | None = None,
    most_tokens: int = MOST_TOKENS,
) -> FastAPI:
    """The server over one model, as an ASGI application. Its lifespan starts and ends the decoding thread.

    name: of the model in requests; None: the name that it was loaded with. api_key: what requests must send as bearer
    token; None: nothing. most_tokens: of an answer, if the request does not say.
    """
    served = name or model.name
    scheduler = Scheduler(model, limits)
    metrics = ServerMetrics(scheduler)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await asyncio.to_thread(scheduler.close)

    app = FastAPI(title="NBDiff", summary=f"Block-diffusion decoding of {served}.", lifespan=lifespan)
    app.state.scheduler = scheduler
    app.add_middleware(BodyLimit)

    def require_key(request: Request) -> None:
        if api_key is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), api_key.encode()):
            raise ApiError(
                401, "Give this server's API key as bearer token.", "invalid_request_error", None, "invalid_api_key"
            )

    def require_model(asked: str) -> None:
        if asked != served:
            raise ApiError(
                404,
                f"There is no model {brief(asked)} here; this server has {served!r}.",
                "invalid_request_error",
                "model",
                "model_not_found",
            )

    key = [Depends(require_key)]
    card = ServedModel.of(model, served).card(created=int(time.time()))

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status)

    @app.exception_handler(NBDiffError)
    async def engine_error(request: Request, error: NBDiffError) -> JSONResponse:
        found = ApiError.of(error)
        return JSONResponse(found.body, found.status)

    @app.exception_handler(RequestValidationError)
    async def body_error(request: Request, error: RequestValidationError) -> JSONResponse:
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind.lower() == "application/json":
            found = ApiError.of_body(error.errors())
        else:
            given = f"has the Content-Type {kind!r}" if kind else "has no Content-Type"
            found = ApiError(415, f"The request {given}; send application/json.", "invalid_request_error")
        return JSONResponse(found.body, found.status)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}."
        if error.status_code == 400:  # of the parser, which knows no reason
            message = "The body of the request cannot be read as JSON in UTF-8."
        return JSONResponse(ApiError(error.status_code, message, "invalid_request_error").body, error.status_code)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", dependencies=key)
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", dependencies=key)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{asked:path}", dependencies=key)
    async def one_model(asked: str) -> dict[str, Any]:
        require_model(asked)
        return card

    async def answer(
        request: Request, body: ChatBody | CompletionBody, makes: list[Callable[[], DecodeJob]]
    ) -> Response:
        require_model(body.model)
        if len(makes) > scheduler.limits.queue:
            waiting = scheduler.limits.queue
            raise ApiError.of(SettingError.of("prompt", f"a list of {len(makes)}", f"give at most {waiting} at once"))
        chat = isinstance(body, ChatBody)
        reply = HttpReply(served, chat, body.stream_mode == "denoise", chat and body.uses_tools)
        asking = Asking(scheduler, metrics, reply, body.n, body.prefix_cache)
        asking.submit(makes)
        try:
            first = await _unless_left(request, asking.accepted())
            if not body.stream:
                await _unless_left(request, _to_end(asking))
                return JSONResponse(reply.whole())
        except Exception as error:
            raise ApiError.of(error) from error
        finally:
            if not body.stream or not reply.choices:
                asking.close()
        usage = body.stream_options is not None and body.stream_options.include_usage
        return _Stream(asking, _events(asking, first, usage))

    async def check(request: Request, body: ChatBody | CompletionBody, makes: list[Callable[[], DecodeJob]]) -> Any:
        require_model(body.model)
        try:
            jobs = [await _unless_left(request, checked(scheduler, make)) for make in makes]
        except Exception as error:
            raise ApiError.of(error) from error
        heads = [{**trace_head(job), "notes": [str(note) for note in job.plan.notes]} for job in jobs]
        return {"object": "list", "data": heads}

    def jobs_of_chat(body: ChatBody) -> list[Callable[[], DecodeJob]]:
        settings = body.decode_settings(most_tokens)
        # As a batch of one: a list alone could also be read as a batch.
        turns = for_template(body.messages)
        return [partial(prepare, model, [turns], template_arguments=body.template_arguments, **settings)]

    def jobs_of_texts(body: CompletionBody) -> list[Callable[[], DecodeJob]]:
        settings = body.decode_settings(most_tokens)
        return [partial(prepare, model, [each], raw=isinstance(each, str), **settings) for each in body.prompts]

    @app.post("/v1/chat/completions", dependencies=key)
    async def chat(request: Request, body: ChatBody) -> Response:
        return await answer(request, body, jobs_of_chat(body))

    @app.post("/v1/completions", dependencies=key)
    async def completions(request: Request, body: CompletionBody) -> Response:
        return await answer(request, body, jobs_of_texts(body))

    @app.post("/v1/chat/completions/check", dependencies=key)
    async def check_chat(request: Request, body: ChatBody) -> Any:
        return await check(request, body, jobs_of_chat(body))

    @app.post("/v1/completions/check", dependencies=key)
    async def check_completions(request: Request, body: CompletionBody) -> Any:
        return await check(request, body, jobs_of_texts(body))

    return app


class _LeftError(Exception):
    """The caller has closed the connection; nobody reads the answer."""


async def _unless_left(request: Request, work: Any) -> Any:
    """The result of a coroutine; cancels it and raises _LeftError as soon as the connection is closed."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise _LeftError("The connection was closed.")
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


async def _to_end(asking: Asking) -> None:
    async for _ in asking.chunks():
        pass


class _Stream(StreamingResponse):
    """A stream that cancels its answers when it ends, also if the caller leaves before its first event."""

    def __init__(self, asking: Asking, events: AsyncIterator[str]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._asking = asking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._asking.close()


async def _events(asking: Asking, first: list[dict[str, Any]], usage: bool) -> AsyncIterator[str]:
    """The chunks as server-sent events. usage: whether a last one has it; then the others have a null in its place."""
    empty = {"usage": None} if usage else {}
    for chunk in first:
        yield _event(chunk | empty)
    try:
        async for chunk in asking.chunks():
            yield _event(chunk | empty)
    except Exception as error:  # the status line is sent already
        yield _event(ApiError.of(error).body)
        return
    if usage:
        yield _event(asking.reply.usage_chunk())
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
