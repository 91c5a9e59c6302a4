"""The command line of training, whose second worker kills itself after the third step, once.

python -c "from tests.training.on_ray.dying_worker import main; main()" ray RECIPE --output RUN --workers 2
"""

import os
import signal
from pathlib import Path

from training.__main__ import main as training_main
from training.on_ray import train

_work, _make_trainer = train.work, train.make_trainer


def work(task):
    killed = Path(task["output"]).with_suffix(".killed")

    def make_trainer(recipe, output, resume, on_step):
        def step(figures):
            on_step(figures)
            if figures.step == 3 and os.environ["RANK"] == "1" and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return _make_trainer(recipe, output, resume, step)

    train.make_trainer = make_trainer
    _work(task)


def main():
    train.work = work
    training_main()
