"""The thread count is measured once, for the process, and only where nobody has chosen it."""

import pytest
import torch

import nbdiff_engine as nb


@pytest.fixture(autouse=True)
def _threads_as_before(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr("nbdiff_engine.model.threads._known", {})
    # Put back at the end: who asks for threads in a later test would take these for the process's own.
    monkeypatch.setattr("nbdiff_engine.model.threads._chosen", None)
    monkeypatch.setattr("nbdiff_engine.model.threads._own", None)


def test_it_picks_one_thread_or_torchs_own_choice_and_sets_it(golden_model):
    torch.set_num_threads(2)
    chosen = nb.choose_threads(golden_model)
    assert chosen in (1, 2)
    assert torch.get_num_threads() == chosen


def test_a_users_own_choice_stands(golden_model, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    assert nb.choose_threads(golden_model) == 2
    assert torch.get_num_threads() == 2


def test_a_slow_model_keeps_torchs_choice_after_one_trial(golden_model, monkeypatch):
    monkeypatch.setattr("nbdiff_engine.model.threads._SLOW_SECONDS", 0.0)
    torch.set_num_threads(2)
    assert nb.choose_threads(golden_model) == 2


def test_models_take_turns_and_each_is_measured_once(golden_model, monkeypatch):
    other = nb.load("nano")
    measured = []

    def fastest(model, own):
        measured.append((model.name, own))
        return 1 if model is other else own

    monkeypatch.setattr("nbdiff_engine.model.threads._fastest", fastest)
    torch.set_num_threads(2)
    for _ in range(2):
        assert nb.choose_threads(other) == torch.get_num_threads() == 1
        assert nb.choose_threads(golden_model) == torch.get_num_threads() == 2
    assert measured == [("nano", 2), (golden_model.name, 2)]
    torch.set_num_threads(1)  # somebody's wish from here on
    assert nb.choose_threads(golden_model) == 1
