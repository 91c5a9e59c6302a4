"""SIGTERM and Ctrl-C: the step is finished, a checkpoint is saved, and the run ends. SIGUSR1: saved, and on it goes."""

import signal
from types import FrameType

from training.errors import RunError


class Interrupted(RunError):
    """A run was asked to stop and has saved a checkpoint after `step`. exit_code: as a shell reports the signal."""

    def __init__(self, step: int, exit_code: int):
        super().__init__(f"stopped after step {step}, which is saved; --resume goes on from there")
        self.step = step
        self.exit_code = exit_code


class Interruption:
    """While it is entered, the first signal is only noted; a second one acts as it always does."""

    def __init__(self) -> None:
        self.asked = 0  # the signal's number
        self.save = False  # a checkpoint is asked for; whoever saves it takes this back
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: whoever runs it there stops it otherwise
                return self
        if hasattr(signal, "SIGUSR1"):
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._note_save)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        signal.signal(number, self._before[number])

    def _note_save(self, number: int, frame: FrameType | None) -> None:
        self.save = True

    def as_exit(self, step: int) -> Interrupted:
        """What ends the run after it has been saved at `step`."""
        return Interrupted(step, 128 + self.asked)
