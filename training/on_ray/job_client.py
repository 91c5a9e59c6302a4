"""The process that stands for a trainer that runs as a Ray job: the queue's runner starts it as it starts a trainer.

    python -m training.on_ray.job_client adapt --recipe RECIPE --output JOB/run [--resume]

It submits the run, copies its log, passes on a stop, and ends as the run ends. If it is killed, the Ray job goes on,
and the next start of the job follows it again. It does not import torch, because it lives as long as the run.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import secrets
import shlex
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.failure_kind import FailureKind
from training.jobs.cluster_file import RayCluster
from training.jobs.supervisor import TEST_TRAINER
from training.run.end_file import Ending, Outcome, write_ending

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_PATIENCE = "NBDIFF_RAY_PATIENCE"  # environment variable: seconds without an answer, after which a cluster is lost
_SAVING = "25"  # seconds from a stop until Ray kills the run, less than those after which the queue kills this process
_POLL = 1.0  # seconds
_STOPPED = 128 + signal.SIGTERM


class ClusterLost(Exception):
    """The cluster does not answer, or does not know the run any more. The message is a sentence."""


class NotStarted(Exception):
    """There is no run to follow. The message is a sentence. Not an error of the engine, which would import torch."""


class Following:
    """One Ray job, from its submission to its end."""

    def __init__(self, folder: Path, cluster: RayCluster):
        self.folder = folder
        self.cluster = cluster
        self.patience = float(os.environ.get(_PATIENCE, "60"))
        self.stopping = False
        self._shown = 0  # characters of the log

    def run(self, entrypoint: str) -> int:
        """Submit the entrypoint, unless the last submission still runs. Returns the exit code; raises ClusterLost."""
        client = self._asked(self._connect)
        submission = self.cluster.submission
        if submission is None or not self._runs(client, submission):
            if self.stopping:
                return _STOPPED
            # Written first: after a kill between the two, the next start finds out whether it was submitted.
            submission = f"nbdiff-{self.folder.name}-{secrets.token_hex(4)}"
            self.cluster = replace(self.cluster, submission=submission)
            self.cluster.write(self.folder)
            variables = {
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # the runner has put the project there
                "PYTHONUNBUFFERED": "1",
                "RAY_JOB_STOP_WAIT_TIME_S": _SAVING,
            }
            self._asked(lambda: self._submit(client, entrypoint, submission, variables))
        print(f"the run is the Ray job {submission} at {self.cluster.address}", flush=True)
        return self._follow(client, submission)

    def _follow(self, client: "JobSubmissionClient", submission: str) -> int:
        from ray.job_submission import JobStatus

        stop_sent = False
        tail = self._tail(client, submission)
        while True:
            info = self._asked(lambda: client.get_job_info(submission))
            if info.status.is_terminal():
                break
            if self.stopping and not stop_sent:
                self._asked(lambda: client.stop_job(submission))
                stop_sent = True
            if not tail.is_alive():
                tail = self._tail(client, submission)
            time.sleep(_POLL)
        tail.join(10)
        if info.status == JobStatus.SUCCEEDED:
            return 0
        if info.status == JobStatus.STOPPED:
            return _STOPPED
        if info.driver_exit_code is None:  # it never started, such as without room on the cluster
            raise NotStarted(f"Ray could not start the run: {' '.join((info.message or '').split())[:400]}")
        return info.driver_exit_code

    def _submit(
        self, client: "JobSubmissionClient", entrypoint: str, submission: str, variables: dict[str, str]
    ) -> None:
        try:
            client.submit_job(entrypoint=entrypoint, submission_id=submission, runtime_env={"env_vars": variables})
        except RuntimeError:
            if not self._runs(client, submission):  # else an earlier try arrived, and its answer was lost
                raise

    def _connect(self) -> "JobSubmissionClient":
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self.cluster.address)

    def _runs(self, client: "JobSubmissionClient", submission: str) -> bool:
        try:
            return not client.get_job_status(submission).is_terminal()
        except RuntimeError:  # the head was started again, and knows no older job
            return False

    def _asked(self, question: Any) -> Any:
        """The answer of the cluster. Asks again until the patience is over. Raises ClusterLost."""
        since = None  # the time of the first failure: one slow refusal does not use up the patience
        while True:
            try:
                return question()
            except Exception as error:  # of requests, of Ray's client, and what its server reports
                if "does not exist" in str(error):
                    raise ClusterLost(
                        f"the Ray cluster at {self.cluster.address} was started again and does not know the run; its "
                        "checkpoints are kept, resume it to continue"
                    ) from error
                since = since or time.monotonic()
                if time.monotonic() - since > self.patience:
                    raise ClusterLost(
                        f"the Ray cluster at {self.cluster.address} did not answer for {self.patience:g} s; the run's "
                        "checkpoints are kept, resume it when the cluster runs again"
                    ) from error
            time.sleep(_POLL)

    def _tail(self, client: "JobSubmissionClient", submission: str) -> threading.Thread:
        """Copy the log to standard output, in a thread, until the run ends or the connection breaks."""

        async def copy() -> None:
            place = 0  # a new connection begins at the start of the log
            async for text in client.tail_job_logs(submission):
                new = text[max(self._shown - place, 0) :]
                place += len(text)
                self._shown = max(self._shown, place)
                sys.stdout.write(new)
                sys.stdout.flush()

        def work() -> None:
            with contextlib.suppress(Exception):  # the loop of `_follow` decides whether the cluster is lost
                asyncio.run(copy())

        thread = threading.Thread(target=work, name="log", daemon=True)
        thread.start()
        return thread


def entrypoint(options: argparse.Namespace, workers: int) -> str:
    """The command that Ray runs, for a shell."""
    resume = ["--resume"] if options.resume else []
    test_trainer = os.environ.get(TEST_TRAINER)
    if test_trainer:
        files = [options.kind, "--recipe", str(options.recipe), "--output", str(options.output)]
        argv = [sys.executable, test_trainer, *files, *resume]
    else:
        files = [str(options.recipe), "--output", str(options.output)]
        size = ["--workers", str(workers), "--address", "auto"]
        argv = [sys.executable, "-m", "training", "ray", *files, *size, *resume]
    return f"exec {shlex.join(argv)}"


def main() -> int:
    """Follow the run of one job; its exit code. What the run could not write into end.json is written here."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    folder = options.output.parent
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)  # Ray's client prefers them to the address that it is given
        if importlib.util.find_spec("ray") is None:
            raise NotStarted('Ray is not installed any more; run pip install "ray[train,serve]>=2.60,<3" and resume it')
        cluster = RayCluster.read(folder)
        if cluster is None:
            raise NotStarted("the cluster.json of the job cannot be read; submit it again")
        following = Following(folder, cluster)
        signal.signal(signal.SIGTERM, lambda *_: setattr(following, "stopping", True))
        return following.run(entrypoint(options, following.cluster.workers))
    except (ClusterLost, NotStarted) as error:
        lost = isinstance(error, ClusterLost)
        outcome = Outcome.LOST if lost else Outcome.FAILED
        write_ending(options.output, Ending(outcome, None if lost else FailureKind.OTHER, message=str(error)))
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
