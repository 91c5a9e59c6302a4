"""Signals. SIGTERM and Ctrl-C: finish the step, save a checkpoint and end the run. SIGUSR1: save and continue."""

import signal
from types import FrameType

from training.errors import RunError


class Interrupted(RunError):
    """A signal stopped the run, and the checkpoint after `step` is saved; 0: there is none, and nothing is lost.

    exit_code: as a shell reports the signal.
    """

    def __init__(self, step: int, exit_code: int):
        where = f"after step {step}, which is saved" if step else "before the first step"
        super().__init__(f"stopped {where}; use --resume to continue")
        self.step = step
        self.exit_code = exit_code


class Interruption:
    """A context manager in which the first SIGTERM or Ctrl-C is only recorded. A second one has its usual effect."""

    def __init__(self) -> None:
        self.stop_signal = 0  # number of the signal that stops the run; 0: none yet
        self.save_requested = False  # reset by the trainer
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._on_stop)
            except ValueError:  # only the main thread can set signal handlers
                return self
        if hasattr(signal, "SIGUSR1"):
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._on_save)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_signal = number
        signal.signal(number, self._before[number])

    def _on_save(self, number: int, frame: FrameType | None) -> None:
        self.save_requested = True

    def as_exit(self, step: int) -> Interrupted:
        """The exception that ends the run after the checkpoint of `step` is saved."""
        return Interrupted(step, 128 + self.stop_signal)
