"""A queue whose trainers replay a recorded run, and the form of the Training tab."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from playground.options import ServerOptions
from playground.server.loaded_models import LoadedModels
from playground.training_tab.form import JobForm
from tests.playground import recordings
from tests.training.jobs.conftest import STAND_IN, end_all
from training.jobs import Jobs


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings.write(tmp_path_factory.mktemp("recording") / "run")


@pytest.fixture
def jobs(tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """The real queue. Its trainers replay a recorded run."""
    monkeypatch.setenv("NBDIFF_JOB_TRAINER", str(STAND_IN))
    monkeypatch.setenv("NBDIFF_STAND_IN_RECORDING", str(recording))
    yield Jobs(tmp_path)
    end_all(tmp_path)


@pytest.fixture
def loaded() -> LoadedModels:
    return LoadedModels(ServerOptions())


@pytest.fixture
def form(loaded: LoadedModels, jobs: Jobs) -> JobForm:
    form = JobForm(loaded, ServerOptions(), jobs)
    with gr.Blocks():
        form.build()
    return form
