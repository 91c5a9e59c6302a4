"""app.py with jobs that live in memory.

NBDIFF_HOME=folder               where they keep their folders
NBDIFF_TEST_RECORDING=folder     a run to replay in place of each job; without it the trainer itself runs
NBDIFF_TEST_PACE=0.05            seconds between the steps of a replay
"""

import atexit
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    from tests.playground import fake_jobs

    recording = os.environ.get("NBDIFF_TEST_RECORDING")
    jobs = fake_jobs.FakeJobs(
        Path(os.environ["NBDIFF_HOME"]),
        recording=Path(recording) if recording else None,
        pace=float(os.environ.get("NBDIFF_TEST_PACE", "0.05")),
    )
    fake_jobs.install(jobs)
    atexit.register(jobs.close)

    import app

    app.main()
