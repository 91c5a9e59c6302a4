"""Views of a run's logs: figures, CSV, words; pure functions."""

import csv
import dataclasses
import io
from pathlib import Path

import pytest

from playground.training_tab import curves, quantities, words
from playground.training_tab.metrics_csv import metrics_csv
from playground.training_tab.pace import LIVE_SECONDS, tick_seconds
from playground.training_tab.probes import shown
from playground.training_tab.x_axis import x_axis
from training.jobs import JobSpec, TrainingJob
from training.recipe.block_schedule import BlockGrowth
from training.run.log_lines import Probe, ProbeAnswer, StepFigures


def test_model_output_is_escaped() -> None:
    answer = ProbeAnswer("What is <b>2 + 3</b>?", "5 <script>", 1.0, 3, (("5", 0), (" <script>", 1)))
    text = shown(Probe(20, 1.0, 0.5, 8, (answer,)), 0, 2)
    assert "5" in text
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "<b>2" not in text


def test_the_figure_of_a_long_run_has_fewer_points_and_the_last_step() -> None:
    lines = [StepFigures(step, loss_mdm=1.0, loss_ar=1.0) for step in range(1, 100_001)]
    figure = curves.losses(lines)
    assert len(figure.data[0].x) == curves.MOST_POINTS
    assert figure.data[0].x[-1] == 100_000


def test_figures_have_steps_tokens_or_time_and_shaded_phases() -> None:
    lines = [
        StepFigures(step, loss_mdm=1.0, loss_ar=1.0, block_size=size, tokens_seen=1000 * step, seconds=30.0 * step)
        for step, size in ((10, 1), (20, 2), (30, 2), (40, 4))
    ]
    assert curves.phases(lines) == [(10, 10, 1), (20, 30, 2), (40, 40, 4)]
    assert [label.text for label in curves.losses(lines).layout.annotations] == ["block size 1", "2", "4"]
    tokens, minutes = x_axis("Tokens", lines), x_axis("Time", lines)
    assert [tokens.at(step) for step in (0, 10, 15, 40, 50)] == [0, 10_000, 15_000, 40_000, 40_000]
    assert (minutes.at(40), minutes.title) == (20, "Time (minutes)")
    assert list(curves.losses(lines, x=tokens).data[0].x) == [10_000, 20_000, 30_000, 40_000]
    assert curves.smoothed([1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]


def test_memory_of_a_run_with_and_without_a_gpu() -> None:
    on_gpu = [StepFigures(step, peak_memory=2 * 10**9, process_memory=10**9, gpu_memory=3 * 10**9) for step in (1, 2)]
    on_gpu.append(dataclasses.replace(on_gpu[-1], step=3, gpu_use=96))
    figure = curves.memory(on_gpu)
    lines = {line.name: (list(line.x), list(line.y)) for line in figure.data}
    assert lines == {
        "RAM": ([1, 2, 3], [1, 1, 1]),
        "GPU, held by PyTorch": ([1, 2, 3], [3, 3, 3]),
        "GPU, peak of tensors": ([1, 2, 3], [2, 2, 2]),
        "GPU use": ([3], [96]),
    }
    assert figure.data[-1].yaxis == "y2"
    assert [line.name for line in curves.memory([StepFigures(1, peak_memory=5, process_memory=4)]).data] == [
        "RAM",
        "Peak",
    ]


def test_a_figure_without_data_says_so() -> None:
    run = [StepFigures(1, loss_ar=1.0)]
    for figure, sentence in (
        (curves.losses([]), curves.NO_STEP),
        (curves.memory(run), curves.NOT_LOGGED),
        (curves.overlaid({"a": run}, "loss_mdm", "MDM loss"), curves.NOT_MEASURED),
        (curves.overlaid_points({"a": []}, "Accepted run"), curves.NOT_MEASURED),
    ):
        assert [each.text for each in figure.layout.annotations] == [sentence]
        assert figure.layout.yaxis.showticklabels is False
    assert curves.losses(run).layout.annotations == ()


def test_metrics_are_saved_as_csv() -> None:
    text = metrics_csv([StepFigures(1, loss=0.5), StepFigures(2, loss_mdm=1 / 3)])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss_mdm"]) == 1 / 3
    assert rows[0]["loss_mdm"] == ""
    assert metrics_csv([]) == ""


def test_an_idle_page_asks_seldom() -> None:
    assert tick_seconds([]) > 3 * LIVE_SECONDS


def test_the_remaining_time_is_estimated_while_a_job_runs() -> None:
    job = TrainingJob(
        id="0123abcd",
        name="a",
        state="running",
        reason="",
        pid=1234,
        step=10,
        max_steps=20,
        folder=Path("a"),
        run=Path("a/run"),
        spec=JobSpec.of(recipe="smoke"),
        created="2026-01-01T00:00:00.000+00:00",
        started="2026-01-01T00:00:00.000+00:00",
        finished=None,
        queue_place=None,
    )
    metrics = [StepFigures(step, seconds=2.0 * step, tokens_per_second=5.0) for step in range(1, 11)]
    assert words.remaining(job, metrics) == pytest.approx(20.0)
    assert words.remaining(dataclasses.replace(job, state="stopped"), metrics) is None
    assert [quantities.duration(each) for each in (0.2, 90, 3000, 10_000)] == ["under 1 s", "90 s", "50 min", "2.78 h"]


def test_block_growth_in_steps_is_shown_in_steps_also_where_the_end_is_not_known() -> None:
    blocks = BlockGrowth(kind="list", sizes=(1, 4, 16), starts=(0, 100, 8000), b_max=16)
    figure = curves.growth(blocks, None)
    assert list(figure.data[0].x) == [1, 101, 8001, 10_001]
    assert list(figure.data[0].y) == [1, 4, 16, 16]
    assert figure.layout.yaxis.tickvals == (1, 4, 16)
    assert figure.layout.xaxis.title.text == "Step, of a run that ends after its epochs"
    close = BlockGrowth(kind="list", sizes=(1, 2, 4, 8, 16), starts=(0, 1, 2, 3, 4), b_max=16)
    assert curves.growth(close, 9).layout.yaxis.tickvals == (2, 4, 8, 16)  # the label of 1 would lie over that of 2
    shorter = curves.growth(blocks, 1000)
    assert (list(shorter.data[0].x), list(shorter.data[0].y)) == ([1, 101, 1000], [1, 4, 4])
