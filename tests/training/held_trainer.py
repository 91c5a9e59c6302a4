"""The trainer itself, which does no more steps than a file allows: a run that is to be killed must not finish before.

    NBDIFF_TEST_LIMIT=file python tests/training/held_trainer.py adapt --recipe ... --output ...

The file holds a number of steps, and may be written anew while the run waits.
"""

import os
import time
from pathlib import Path

from training.__main__ import main
from training.run.log_lines import StepFigures
from training.run.run_folder import RunFolder


def allow(limit: Path, steps: int) -> None:
    """Let the runs of this file go on to a step."""
    beside = limit.with_name(limit.name + ".part")
    beside.write_text(str(steps), encoding="utf-8")
    os.replace(beside, limit)


def hold(limit: Path) -> None:
    """Have the run of this process wait after the step that the file names."""
    log = RunFolder.log_step

    def held(self: RunFolder, figures: StepFigures) -> None:
        log(self, figures)
        while figures.step >= int(limit.read_text(encoding="utf-8")):
            time.sleep(0.01)

    RunFolder.log_step = held


if __name__ == "__main__":
    hold(Path(os.environ["NBDIFF_TEST_LIMIT"]))
    main()
