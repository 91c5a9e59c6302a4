"""Fixtures of the training tests."""

import sys

import pytest
from accelerate.state import AcceleratorState

from training.__main__ import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process. Returns exit code, standard output, standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return command


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Reset accelerate's state around each test: it keeps precision and devices for the life of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
