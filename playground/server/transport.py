"""The functions that stage.js calls on the server: poll, leave, coming, and the sources of the replay page."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from playground.server import replay_file
from playground.server.coming_model import ComingModel
from playground.server.worker import RELOAD_SECONDS, UNKNOWN, Worker


class Poll(BaseModel):
    """A request for the next frames. viewer: a random id that the page has made. may_return: of a viewer that leaves;
    its page may only be loaded again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: str = Field(max_length=64)
    viewer: str = Field(min_length=1, max_length=64)
    cursor: int = 0
    may_return: bool = False


def transport(worker: Worker, coming_model: ComingModel | None = None) -> tuple[Callable, ...]:
    """The functions that stage.js calls as server.poll, server.leave, server.sources and server.coming."""

    # These are coroutines, although they never wait: Gradio would run a plain function in a thread of its pool.
    async def poll(message: Any) -> dict[str, Any]:
        try:
            request = Poll.model_validate(message)
        except ValidationError:
            return UNKNOWN.to_json()
        return worker.poll(request.run, request.viewer, request.cursor).to_json()

    async def leave(message: Any) -> None:
        try:
            request = Poll.model_validate(message)
        except ValidationError:
            return
        if request.may_return:
            worker.hold(request.run, request.viewer, RELOAD_SECONDS)
        else:
            worker.leave(request.run, request.viewer)

    async def sources(message: Any = None) -> dict[str, str]:
        return replay_file.sources()

    async def coming(message: Any = None) -> dict[str, str] | None:
        return None if coming_model is None else coming_model.state()

    return poll, leave, sources, coming
