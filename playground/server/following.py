"""Wait on the server for a run of the worker. It polls like a page."""

import secrets
import time
from collections.abc import Iterator

from playground.server.worker import Logged, Reply, Worker

POLL_SECONDS = 0.05


def replies(worker: Worker, run_id: str) -> Iterator[Reply]:
    """Every reply, with its frames, until the run has ended. Closing the generator ends the lease on the run."""
    viewer = secrets.token_hex(8)
    cursor = 0
    try:
        while True:
            reply = worker.poll(run_id, viewer, cursor)
            cursor = reply.cursor
            yield reply
            if reply.state not in ("queued", "running") and not reply.more:
                return
            time.sleep(0 if reply.more else POLL_SECONDS)
    finally:
        worker.leave(run_id, viewer)


def outcome(worker: Worker, run_id: str) -> Reply:
    """The last reply of a run, with all frames of the run."""
    frames: list[Logged] = []
    last = None
    for last in replies(worker, run_id):
        frames.extend(last.frames)
    return Reply(last.state, frames, last.cursor, message=last.message)
