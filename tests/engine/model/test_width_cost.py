"""The cost of a forward by its width: measured once, kept for the machine, and measured again if it is damaged."""

import logging

import pytest
import torch

import nbdiff_engine as nb
import nbdiff_engine.model.width_cost as width_costs
from nbdiff_engine.model.session import Session
from nbdiff_engine.model.width_cost import WIDTHS, ForwardTimes, WidthCost, forward_times, set_width_cost, width_cost
from tests.draft_adapters import tiny_drafter
from tests.tiny import prompt_ids, tiny_model


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NBDIFF_HOME", str(tmp_path))
    return tmp_path / "width-cost"


def test_between_the_measured_widths_the_cost_grows_evenly():
    cost = WidthCost((1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 8.0))
    assert [cost(width) for width in (1, 2, 3, 4, 6, 12, 16, 64)] == [1.0, 1.5, 1.75, 2.0, 2.0, 2.5, 3.0, 8.0]
    assert cost(96) == 12.0
    assert cost.without_noise(6) == cost(6)
    cheaper = WidthCost(cost.relative, (1.0, 1.0, 1.0, 1.2, 1.4, 2.0, 4.0))
    assert [cheaper(8), cheaper.without_noise(8), cheaper.without_noise(6)] == [2.0, 1.2, pytest.approx(1.1)]


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
    cost = width_cost(model)
    assert len(cost.relative) == len(cost.clean) == len(WIDTHS)
    assert cost.relative[0] == cost.clean[0] == 1
    assert width_cost(tiny_drafter("llama", fused=True)[1]) == cost  # read from the file


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '{"relative": [1, 2], "clean": null}',
        '{"relative": [1, 1, 1, 1, 1, 1, -1], "clean": null}',
        '{"relative": [1, 1, 1, 1, 1, 1, 1], "clean": [1, 1]}',
        "[1]",
    ],
)
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
    assert forward_times(model) is None
    assert not home.exists()


TRUE = WidthCost((1.0, 1.0, 1.1, 1.2, 1.4, 1.8, 2.6))
BUSY = WidthCost((1.0, 1.0, 1.1, 2.4, 2.8, 3.6, 5.2))  # as if another process had begun in the middle


def observe(times: ForwardTimes, count: int, widths=(1, 6, 12), pace: float = 0.01) -> None:
    for number in range(count):
        tokens = widths[number % len(widths)]
        times.observe(tokens, pace * TRUE(tokens) * (5 if number % 7 == 0 else 1))  # and now and then a slow one


def test_forwards_of_two_widths_show_a_wrong_measurement():
    times = ForwardTimes()
    observe(times, 127)
    assert not times.contradict(BUSY)  # too few
    observe(times, 1)
    assert times.contradict(BUSY)
    assert not times.contradict(TRUE)
    slower = ForwardTimes()
    observe(slower, 200, pace=0.2)  # another machine speed is no contradiction
    assert not slower.contradict(TRUE)
    by_kind = ForwardTimes()  # forwards of one width, of which those with noise rows take longer
    for _ in range(64):
        by_kind.observe(8, 0.02, True)
        by_kind.observe(8, 0.01, False)
    assert by_kind.contradict(TRUE)
    assert not by_kind.contradict(WidthCost(tuple(2 * each for each in TRUE.relative), TRUE.relative))
    for widths in ((1,), (1, 2, 100)):  # as wide as each other, or wider than what is measured
        same = ForwardTimes()
        observe(same, 400, widths)
        assert not same.contradict(BUSY)


def test_a_cost_at_which_drafts_are_never_tried_is_measured_again():
    times = ForwardTimes()
    for _ in range(1023):
        times.observe(1, 0.01, noise=False)
    assert not times.contradict(TRUE)
    times.observe(1, 0.01, noise=False)
    assert times.contradict(TRUE)
    times.restart()  # now it takes twice as many forwards
    for _ in range(2047):
        times.observe(1, 0.01, noise=False)
    assert not times.contradict(TRUE)
    times.observe(8, 0.01 * TRUE(8), noise=True)
    assert not times.contradict(TRUE)


def test_a_contradicted_measurement_is_made_again_and_kept(home, monkeypatch):
    made = []
    monkeypatch.setattr(width_costs, "_measured", lambda model: made.append(model) or (BUSY, BUSY, TRUE)[len(made) - 1])
    model = tiny_model("llama", fused=True)
    assert width_cost(model) == BUSY
    observe(forward_times(model), 128)
    assert width_cost(model) == BUSY  # measured again, and wrong again
    observe(forward_times(model), 128)
    assert width_cost(model) == BUSY
    assert len(made) == 2  # now it takes twice as many forwards
    observe(forward_times(model), 128)
    assert width_cost(model) == TRUE
    observe(forward_times(model), 1000)
    assert width_cost(model) == TRUE
    assert len(made) == 3
    assert width_cost(tiny_model("llama", fused=True)) == TRUE  # in another process


def test_a_round_in_which_the_machine_was_busy_does_not_count(home, monkeypatch):
    """By a clock that this test moves: every third round, wide forwards take ten times as long."""
    now, forwards = [0.0], [0]

    def run(self, passes):
        slow = forwards[0] // len(WIDTHS) % 3 == 1 and len(passes[0].tokens) > 4
        forwards[0] += 1
        now[0] += TRUE(len(passes[0].tokens)) * (1.0 if slow else 0.1)
        return torch.zeros(1, 4)

    model = tiny_model("llama")
    monkeypatch.setattr(width_costs.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Session, "prefill", lambda self, prompts: None)
    monkeypatch.setattr(Session, "run", run)
    assert width_cost(model).relative == pytest.approx(TRUE.relative)


def test_decoding_times_the_forwards_of_one_row(home, monkeypatch):
    _, drafter = tiny_drafter("llama", fused=True, scale=0.02)
    seen = []
    monkeypatch.setattr(ForwardTimes, "observe", lambda self, *forward: seen.append(forward))
    how = {"strategy": "self_speculative", "draft_layout": "auto", "max_new_tokens": 12, "ignore_eos": True}
    output = nb.generate(drafter, prompt_ids(5), **how)
    assert len(seen) == output.metrics.decode_forwards + 1  # with the prefill
    assert {noise for _, _, noise in seen} == {True, False}
    assert sum(seconds for _, seconds, _ in seen) <= output.metrics.prefill_seconds + output.metrics.decode_seconds
    nb.generate(drafter, [prompt_ids(5), prompt_ids(6)], **{**how, "max_new_tokens": 1})
    assert len(seen) == output.metrics.decode_forwards + 1  # a batch has other costs
