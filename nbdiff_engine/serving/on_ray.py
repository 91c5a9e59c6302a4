"""The server on Ray Serve: replicas of the model, and a front that sends each request to one of them.

The front has the routes of the replicas. It keeps the beginning of an answer until the first part of its body is there,
and asks another replica if the first one dies before. So only answers that have begun to stream can be lost with a
replica, and these end with an error event.
"""

import asyncio
import json
import signal
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from nbdiff_engine.errors import NBDiffError, brief, brief_text
from nbdiff_engine.model.checkpoints import load
from nbdiff_engine.model.threads import choose_threads
from nbdiff_engine.ray_cluster import check_room, cluster_has_gpus, connected
from nbdiff_engine.serving.api_errors import ApiError
from nbdiff_engine.serving.app import make_app
from nbdiff_engine.serving.scheduler import SchedulerLimits

_APPLICATION = "nbdiff"
_FRONT_REQUESTS = 200  # that one front passes on at once, before there is a second front
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}  # no line per request, as without Ray
_TRIES = 5  # replicas that a request may see die
_DRAIN_SECONDS = 120.0  # for the answers of a replica that is no longer needed
_SCOPE = ("method", "path", "raw_path", "query_string", "root_path", "headers", "http_version", "scheme")


@dataclass(frozen=True, slots=True)
class ReplicaModel:
    """What a replica loads and serves. how: the arguments of `load`. The other fields are those of `make_app`."""

    how: dict[str, Any]
    name: str | None
    api_key: str | None
    limits: SchedulerLimits
    most_tokens: int


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many, and what each of them gets. gpus None: 1 if the cluster has any, else 0."""

    least: int
    most: int
    cpus: float = 1.0
    gpus: float | None = None

    @classmethod
    def of(cls, text: str, cpus: float, gpus: float | None) -> "Replicas":
        """Read `2` or `1:8`. Raises NBDiffError."""
        least, _, most = text.partition(":")
        if not (least.isdecimal() and (most or least).isdecimal() and 1 <= int(least) <= int(most or least)):
            raise NBDiffError(f"--replicas is {brief(text)}; give a number from 1, or MIN:MAX such as 1:8.")
        return cls(int(least), int(most or least), cpus, gpus)


class Replica:
    """A deployment: the server of one process, whose answers go to the front instead of to a socket."""

    async def __init__(self, served: ReplicaModel):
        how = dict(served.how)
        loaded = await asyncio.to_thread(load, how.pop("model"), **how)
        choose_threads(loaded)
        self._app = make_app(loaded, served.name, served.api_key, served.limits, served.most_tokens)
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        """The ASGI messages of one answer. Closing the iterator cancels the request, as a cut connection does."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if unread:
                return unread.pop()
            return await asyncio.get_running_loop().create_future()  # until it is cancelled

        async def run() -> None:
            try:
                await self._app({"type": "http", "asgi": {"version": "3.0"}, **scope}, receive, messages.put)
            finally:
                messages.put_nowait(None)

        work = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                yield message
            await work
        finally:
            work.cancel()


class Front:
    """A deployment: the HTTP entry. It has no model and asks the replicas."""

    def __init__(self, replicas: Any):
        """replicas: the handle of the deployment of `Replica`."""
        self._answer = replicas.options(stream=True).answer

    def __serve_build_asgi_app__(self) -> Starlette:
        return Starlette(routes=[Mount("/", app=self._pass_on)])

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        body = await _body(receive)
        parts = {name: scope[name] for name in _SCOPE if name in scope}
        error = ApiError(503, "The replicas of this server ended; try again later.", "server_error")
        for _ in range(_TRIES):
            begun: list[Message] = []  # what is kept until the body begins
            streaming = False
            messages = self._answer.remote(parts, body)
            try:
                async for message in messages:
                    if not streaming:
                        begun.append(message)
                        if message["type"] == "http.response.start":
                            continue
                        streaming = True
                        for each in begun:
                            await send(each)
                    else:
                        await send(message)
                return
            except RayActorError:
                if streaming:
                    await _end_stream(send)
                    return
            except BackPressureError:
                error = ApiError(429, "This server is busy; try again later.", "rate_limit_error", code="queue_full")
                break
            except asyncio.CancelledError:  # the caller has left
                messages.cancel()
                raise
        await JSONResponse(error.body, error.status)(scope, receive, send)


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _end_stream(send: Send) -> None:
    """The last event of a stream whose replica died."""
    error = ApiError(500, "The replica that answered has ended; send the request again.", "server_error")
    event = f"data: {json.dumps(error.body)}\n\n".encode()
    await send({"type": "http.response.body", "body": event, "more_body": False})


def serve_on_ray(served: ReplicaModel, replicas: Replicas, address: str | None, host: str, port: int) -> None:
    """Deploy the server on a Ray cluster, and keep it until a signal.

    address: as in `connected`. host, port: where the machines of the cluster listen. Raises NBDiffError.
    """
    if port == 0:
        raise NBDiffError("Port 0 cannot be used on Ray; give one that is free on all machines, such as --port 8000.")
    how = dict(served.how)
    if Path(how["model"]).exists():
        how["model"] = str(Path(how["model"]).resolve())
    served = ReplicaModel(how, served.name, served.api_key, served.limits, served.most_tokens)
    ended = threading.Event()
    with connected(address):
        from ray import serve

        gpus = (1.0 if cluster_has_gpus() else 0.0) if replicas.gpus is None else replicas.gpus
        check_room("replicas", replicas.least, replicas.cpus, gpus)
        if serve.status().proxies:
            raise NBDiffError("Ray Serve runs on this cluster already; end it with serve shutdown, or use another one.")
        try:
            _start_serve(host, port)
            _deploy(served, replicas, gpus)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: ended.set())
            name = served.name or how["model"]
            shown = f"[{host}]" if ":" in host else host
            count = f"{replicas.least} to {replicas.most}" if replicas.most > replicas.least else f"{replicas.least}"
            print(f"{name} on http://{shown}:{port}/v1, {count} replicas on Ray", flush=True)
            while not ended.wait(0.5):
                pass
        finally:
            serve.shutdown()


def _start_serve(host: str, port: int) -> None:
    from ray import serve
    from ray.exceptions import RayError

    try:
        serve.start(http_options={"host": host, "port": port}, logging_config=_LOGGING)
    except (RayError, RuntimeError, TimeoutError) as error:
        reason = brief_text(str(error), 200) or type(error).__name__
        raise NBDiffError(
            f"Ray Serve cannot listen at port {port} of {host} on the cluster: {reason}; see the logs of Ray, or "
            "choose another --port."
        ) from error


def _deploy(served: ReplicaModel, replicas: Replicas, gpus: float) -> None:
    from ray import serve

    limits = served.limits
    if replicas.most > replicas.least:
        # A replica decodes `rows` answers together; with more, further ones wait.
        scale = {"min_replicas": replicas.least, "max_replicas": replicas.most, "target_ongoing_requests": limits.rows}
        count: dict[str, Any] = {"autoscaling_config": scale}
    else:
        count = {"num_replicas": replicas.least}
    model = serve.deployment(
        Replica,
        max_ongoing_requests=limits.rows + limits.queue,
        max_queued_requests=limits.queue,
        graceful_shutdown_timeout_s=_DRAIN_SECONDS,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": gpus},
        **count,
    )
    fronts = {"min_replicas": 1, "max_replicas": replicas.most, "target_ongoing_requests": _FRONT_REQUESTS}
    front = serve.deployment(
        serve.ingress()(Front),
        name="Front",
        max_ongoing_requests=100 * _FRONT_REQUESTS,
        graceful_shutdown_timeout_s=_DRAIN_SECONDS,
        ray_actor_options={"num_cpus": 0},
        autoscaling_config=fronts,
    )
    try:
        serve.run(front.bind(model.bind(served)), name=_APPLICATION, route_prefix="/", logging_config=_LOGGING)
    except RuntimeError as error:
        found = serve.status().applications.get(_APPLICATION)
        raise NBDiffError(f"The replicas cannot start: {_reason(found.message if found else str(error))}") from error


def _reason(message: str) -> str:
    """The last line of a message that ends with a traceback: the sentence of an error of the engine."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return brief_text(next((line for line in reversed(lines) if "Error: " in line), lines[-1]), 400)
