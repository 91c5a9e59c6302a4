"""Fixtures of the training tests."""

import sys

import pytest
from accelerate.state import AcceleratorState

from training.__main__ import main


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; exit code, standard output, standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return command


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Each run in this process starts as the first of its process: accelerate keeps precision and devices for good."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
