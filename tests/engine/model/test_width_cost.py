"""The cost of a forward by its width: measured once, kept for the machine, and measured again if it is damaged."""

import logging

import pytest

import nbdiff_engine.model.width_cost as width_costs
from nbdiff_engine.model.width_cost import WIDTHS, WidthCost, set_width_cost, width_cost
from tests.draft_adapters import tiny_drafter
from tests.tiny import tiny_model


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path))
    return tmp_path / "width-cost"


def test_between_the_measured_widths_the_cost_grows_evenly():
    cost = WidthCost((1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 8.0))
    assert [cost(width) for width in (1, 2, 3, 4, 6, 12, 16, 64)] == [1.0, 1.5, 1.75, 2.0, 2.0, 2.5, 3.0, 8.0]
    assert cost(96) == 12.0


def test_it_is_measured_once_for_a_model_and_a_machine(home, monkeypatch):
    model = tiny_model("llama", fused=True)
    cost = width_cost(model)
    assert cost.relative[0] == 1
    assert list(cost.relative) == sorted(cost.relative)
    monkeypatch.setattr(width_costs, "_measured", lambda model: pytest.fail("measured again"))
    assert width_cost(model) is cost
    assert width_cost(tiny_model("llama", fused=True)) == cost  # in another process: read from the file
    with pytest.raises(pytest.fail.Exception):
        width_cost(tiny_model("llama", fused=True, hidden_size=40))
    with pytest.raises(pytest.fail.Exception):
        width_cost(tiny_drafter("llama", fused=True)[1])


def test_a_draft_adapter_is_measured_with_its_noise_rows(home):
    _, model = tiny_drafter("llama", fused=True)
    assert len(width_cost(model).relative) == len(WIDTHS)


@pytest.mark.parametrize("content", ["", "{}", '{"relative": [1, 2]}', '{"relative": [1, 1, 1, 1, 1, 1, -1]}', "[1]"])
def test_a_damaged_file_is_replaced(home, content):
    cost = width_cost(tiny_model("llama"))
    (file,) = home.iterdir()
    file.write_text(content)
    again = width_cost(tiny_model("llama"))
    assert len(again.relative) == len(cost.relative)
    assert width_costs.WidthCost(again.relative) == width_cost(tiny_model("llama"))


def test_a_cache_that_cannot_be_written_is_said(home, caplog):
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the folder would be")
    with caplog.at_level(logging.WARNING):
        assert width_cost(tiny_model("llama", hidden_size=24)).relative[0] == 1
    assert "cannot be kept" in caplog.text


def test_a_given_cost_is_not_measured(home):
    model, cost = tiny_model("llama"), WidthCost(tuple(map(float, WIDTHS)))
    set_width_cost(model, cost)
    assert width_cost(model) is cost
    assert not home.exists()
