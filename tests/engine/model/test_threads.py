"""The thread count is measured once per model, and only if the user has not set it."""

import pytest
import torch

import nbdiff_engine as nb


@pytest.fixture(autouse=True)
def _threads_restored(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _nothing_measured(monkeypatch):
    monkeypatch.setattr("nbdiff_engine.model.threads._known", {})
    # Restored at the end, so that later tests do not read values of this test.
    monkeypatch.setattr("nbdiff_engine.model.threads._chosen", None)
    monkeypatch.setattr("nbdiff_engine.model.threads._own", None)


def test_one_thread_or_torchs_own_choice_is_set(golden_model):
    torch.set_num_threads(2)
    chosen = nb.choose_threads(golden_model)
    assert chosen in (1, 2)
    assert torch.get_num_threads() == chosen


def test_the_thread_count_of_the_user_is_kept(golden_model, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    torch.set_num_threads(2)
    assert nb.choose_threads(golden_model) == 2
    assert torch.get_num_threads() == 2


def test_a_slow_model_keeps_torchs_choice_after_one_trial(golden_model, monkeypatch):
    monkeypatch.setattr("nbdiff_engine.model.threads._SLOW_SECONDS", 0.0)
    torch.set_num_threads(2)
    assert nb.choose_threads(golden_model) == 2


def test_two_models_are_each_measured_once(golden_model, monkeypatch):
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
    torch.set_num_threads(1)  # as if the user had set it
    assert nb.choose_threads(golden_model) == 1
