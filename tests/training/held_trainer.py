"""The real trainer, limited to the number of steps in a file, so that a run cannot finish before the test kills it.

    NBDIFF_TEST_LIMIT=file python tests/training/held_trainer.py adapt --recipe ... --output ...

The file contains the number of steps. While the run waits, the test can write a larger number.
"""

import os
import time
from pathlib import Path

from training.__main__ import main
from training.run.log_lines import StepFigures
from training.run.run_folder import RunFolder


def allow(limit: Path, steps: int) -> None:
    """Allow the runs that read this file to train up to step `steps`."""
    unfinished = limit.with_name(limit.name + ".part")
    unfinished.write_text(str(steps), encoding="utf-8")
    os.replace(unfinished, limit)


def hold(limit: Path) -> None:
    """Make the run of this process wait after the step in the file."""
    log_step = RunFolder.log_step

    def log_and_wait(self: RunFolder, figures: StepFigures) -> None:
        log_step(self, figures)
        while figures.step >= int(limit.read_text(encoding="utf-8")):
            time.sleep(0.01)

    RunFolder.log_step = log_and_wait


if __name__ == "__main__":
    hold(Path(os.environ["NBDIFF_TEST_LIMIT"]))
    main()
