"""What the stage's script calls on the server: poll, leave, and the sources of the replay page."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from playground.server import replay_file
from playground.server.worker import UNKNOWN, Worker


class Poll(BaseModel):
    """What the page sends to read on. viewer: an id that the page has made up for itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: str = Field(max_length=64)
    viewer: str = Field(min_length=1, max_length=64)
    cursor: int = 0


def transport(worker: Worker) -> tuple[Callable, ...]:
    """The functions that stage.js calls as server.poll, server.leave and server.sources."""

    # Coroutines, although nothing in them waits: Gradio would take a thread of its pool for each call otherwise.
    async def poll(message: Any) -> dict[str, Any]:
        try:
            asked = Poll.model_validate(message)
        except ValidationError:
            return UNKNOWN.to_json()
        return worker.poll(asked.run, asked.viewer, asked.cursor).to_json()

    async def leave(message: Any) -> None:
        try:
            asked = Poll.model_validate(message)
        except ValidationError:
            return
        worker.leave(asked.run, asked.viewer)

    async def sources(message: Any = None) -> dict[str, str]:
        return replay_file.sources()

    return poll, leave, sources
