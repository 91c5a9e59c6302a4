"""The states of a job, and which can follow which.

queued -> starting -> running -> finished | failed | stopped | lost
             |           |
             |           +-> stopping -> stopped (or any other end that came first)
             +-> queued (its runner died before the trainer was there) | stopped | failed
stopped | failed | lost -> queued (resume);  queued -> stopped (cancelled)
"""

QUEUED = "queued"
STARTING = "starting"  # a runner is on its way; there is no trainer yet
RUNNING = "running"
STOPPING = "stopping"  # told to end; it saves first
STOPPED = "stopped"
FINISHED = "finished"
FAILED = "failed"
LOST = "lost"  # the machine was restarted under it

LIVE = frozenset({STARTING, RUNNING, STOPPING})  # holds a slot
ENDED = frozenset({STOPPED, FINISHED, FAILED, LOST})
RESUMABLE = frozenset({STOPPED, FAILED, LOST})
ALL = LIVE | ENDED | {QUEUED}

FOLLOWING = {
    QUEUED: frozenset({STARTING, STOPPED, FAILED}),
    STARTING: frozenset({RUNNING, QUEUED, STOPPED, FAILED, LOST}),
    RUNNING: frozenset({STOPPING, FINISHED, STOPPED, FAILED, LOST}),
    STOPPING: frozenset({FINISHED, STOPPED, FAILED, LOST}),
    STOPPED: frozenset({QUEUED}),
    FAILED: frozenset({QUEUED}),
    LOST: frozenset({QUEUED}),
    FINISHED: frozenset(),
}
