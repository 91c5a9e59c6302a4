"""The states of a job and the allowed transitions.

queued -> starting -> running -> finished | failed | stopped | lost
             |           |
             |           +-> stopping -> stopped (or another end state, if the trainer ended first)
             +-> queued (its runner died before the trainer started) | stopped | failed
stopped | failed | lost -> queued (resume);  queued -> stopped (cancelled)
"""

QUEUED = "queued"
STARTING = "starting"  # the runner is started, the trainer is not
RUNNING = "running"
STOPPING = "stopping"  # it was signalled to stop, and saves first
STOPPED = "stopped"
FINISHED = "finished"
FAILED = "failed"
LOST = "lost"  # the machine was restarted during the run, or the Ray cluster does not answer

LIVE = frozenset({STARTING, RUNNING, STOPPING})  # uses a slot
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
