"""Sweeps: block size 1 is AR, the table, a stop, and errors of one sentence."""

import csv
import io
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nbdiff_engine as nb
from nbdiff_engine import NBDiffError
from nbdiff_engine.tasks import held_out
from nbdiff_engine.trace.metrics import Metrics
from playground.options import ServerOptions
from playground.server.worker import Frame, Limits, Reply, RunPart, Worker
from playground.sweep import sweep, sweep_figures
from playground.sweep.opened_answer import opened_answer
from playground.sweep.own_problems import OwnProblems
from playground.sweep.sweep import SweepSpec, check_sweep
from playground.sweep.sweep_frames import At, SweepAnswer
from playground.sweep.sweep_rows import series_of, table, to_csv
from playground.sweep.sweep_table import (
    UnderWay,
    answers_of,
    columns_of,
    how_little,
    lane_of,
    progress_html,
    table_html,
)
from tests.playground.server.test_worker import PATIENCE, until

OPTIONS = ServerOptions()
ANSWER = {"model": "m", "series": "", "correct": None, "digest": "a"}


class OneModel:
    """A stand-in for LoadedModels with one model."""

    def __init__(self, model: nb.BlockModel):
        self.model = model
        self.users = 0

    def names(self) -> list[str]:
        return [self.model.name]

    def get(self, name: str) -> nb.BlockModel:
        if name != self.model.name:
            raise nb.SettingError(f"There is no model {name}.")
        return self.model

    @contextmanager
    def using(self, name: str) -> Iterator[nb.BlockModel]:
        self.users += 1
        try:
            yield self.get(name)
        finally:
            self.users -= 1


@pytest.fixture(scope="module")
def loaded() -> OneModel:
    return OneModel(nb.load("nano", dtype="float32"))


def frames_of(parts: Sequence[RunPart]) -> list[Frame]:
    return [frame for part in parts for frame in part.frames()]


@pytest.fixture(scope="module")
def maths(loaded: OneModel) -> list[Frame]:
    """Two problems under AR, blocks of 4 and self-speculation in blocks of 4."""
    spec = SweepSpec.of(
        models=["nano"],
        block_sizes=[1, 4],
        policies=["confidence", "self_speculative"],
        domain="math",
        problems=2,
        max_new_tokens=32,
    )
    checked = check_sweep(loaded, spec, OPTIONS)
    frames = frames_of(checked.parts)
    assert sum(isinstance(frame, SweepAnswer) for frame in frames) == checked.total == 6
    assert loaded.users == 0
    return frames


def test_block_size_1_is_labelled_and_decoded_as_ar(maths: list[Frame], loaded: OneModel) -> None:
    ar = table(maths)[0]
    assert (ar.setting, ar.block_size, ar.strategy) == ("1 = AR", 1, "ar")
    assert (ar.tpf, ar.same_as_ar, ar.speed) == (1, 1, 1)
    wanted = [
        nb.generate(loaded.model, problem.prompt, strategy="ar", max_new_tokens=32) for problem in held_out("math", 2)
    ]
    assert ar.mean_tokens == sum(each.metrics.output_tokens for each in wanted) / 2


def test_self_speculation_gives_the_text_of_ar(maths: list[Frame]) -> None:
    ar, _, speculative = table(maths)
    assert speculative.series == "self-speculation"
    assert speculative.same_as_ar == 1
    assert speculative.tpf > 1
    assert speculative.accuracy == ar.accuracy


def answer(setting: int, tokens: int, forwards: int, seconds: float = 1.0, **fields: Any) -> SweepAnswer:
    """An answer with setting 0, which is AR, or setting 1, which is block diffusion with blocks of 4."""
    metrics = Metrics(
        output_tokens=tokens,
        prefill_seconds=0.0,
        decode_seconds=seconds,
        decode_forwards=forwards,
        denoise_forwards=forwards,
        commit_forwards=0,
        tokens_per_forward=None,
        tokens_per_second=(tokens - 1) / seconds,
        seconds_to_first_token=0.0,
        seconds_to_first_block=0.0,
    )
    of = {"block_size": 4, "label": "4", "strategy": "block_diffusion"}
    if setting == 0:
        of = {"block_size": 1, "label": "1 = AR", "strategy": "ar"}
    return SweepAnswer(**{**ANSWER, **of, "setting": setting, "metrics": metrics, **fields})


def test_the_table_divides_sums_over_the_answers() -> None:
    rows = [
        answer(setting=0, problem=0, tokens=11, forwards=10, correct=True),
        answer(setting=0, problem=1, tokens=21, forwards=20, correct=False, digest="b"),
        answer(setting=1, problem=0, tokens=11, forwards=4, correct=True, seconds=0.5),
        At(setting=1, problem=1),
        answer(setting=1, problem=1, tokens=31, forwards=16, correct=None, seconds=0.5),
    ]
    ar, four = table(rows)
    assert (ar.n, ar.accuracy, ar.tpf, ar.tokens_per_second) == (2, 0.5, 1, 15)
    assert (four.n, four.accuracy, four.tpf, four.tokens_per_second) == (2, 1, 2, 40)
    assert (four.mean_tokens, four.same_as_ar, four.speed) == (21, 0.5, 40 / 15)
    # During a sweep, AR can have fewer answers. Only problems that both have answered are compared.
    assert table(rows[2:])[0].speed is None
    assert table([rows[0], *rows[2:]])[1].speed == 2


def test_csv_round_trip(maths: list[Frame]) -> None:
    records = table(maths)
    read = list(csv.DictReader(io.StringIO(to_csv(records))))
    assert [row["setting"] for row in read] == [record.setting for record in records]
    assert [float(row["tpf"]) for row in read] == [record.tpf for record in records]
    assert list(read[0]) == list(records[0].to_json())
    assert to_csv([]) == ""
    assert [row["accuracy_low"] for row in read] == [str(record.accuracy_low) for record in records]
    hostile = replace(records[0], output='=HYPERLINK("x")\n,')
    assert next(csv.DictReader(io.StringIO(to_csv([hostile]))))["output"] == '\'=HYPERLINK("x")\n,'


def test_the_table_has_a_series_column_only_for_several_series(maths: list[Frame]) -> None:
    headers, cells = columns_of(table(maths))
    assert headers[:2] == ["Block size", "Series"]
    assert cells[0][:3] == ["1 = AR", "", "1.00"]
    headers, cells = columns_of(table(maths)[:2])
    assert "Series" not in headers
    assert all(len(row) == len(headers) for row in cells)
    other = replace(table(maths)[0], model="other", series="<b>other</b>")
    several = [*table(maths)[:2], other]
    assert columns_of(several)[1][2][:2] == ["1 = AR", "<b>other</b>"]
    assert '<td data-header="Series">&lt;b&gt;other&lt;/b&gt;</td>' in table_html(several)


def test_every_series_of_a_figure_starts_with_ar(maths: list[Frame]) -> None:
    records = table(maths)
    lines = series_of(records)
    assert {name: [each.block_size for each in line] for name, line in lines.items()} == {
        "confidence": [1, 4],
        "self-speculation": [1, 4],
    }
    accuracy = sweep_figures.accuracy_against_tpf(records)
    assert [line.name.split(" (")[0] for line in accuracy.data] == list(lines)
    assert all("AUP" in line.name for line in accuracy.data)
    speed = sweep_figures.speed_against_block_size(records)
    assert list(speed.layout.xaxis.ticktext) == ["1 = AR", "4"]
    assert speed.data[0].y[0] == records[0].tokens_per_second
    agreement = sweep_figures.agreement_against_block_size(records)
    assert list(agreement.data[1].y) == [100, 100]
    for figure in (accuracy, speed, agreement):
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_accuracies_have_intervals_and_speeds_have_the_middle_half() -> None:
    rows = table(
        answer(setting=0, problem=number, tokens=11, forwards=10, seconds=seconds, correct=number < 3)
        for number, seconds in enumerate((0.5, 1.0, 2.0, 4.0))
    )
    assert (rows[0].accuracy_low, rows[0].accuracy_high) == pytest.approx((0.3006, 0.9544), abs=1e-3)
    figure = sweep_figures.accuracy_against_tpf(rows)
    assert figure.data[0].error_y.array[0] == pytest.approx(20.44, abs=0.1)
    assert figure.data[0].error_y.arrayminus[0] == pytest.approx(44.94, abs=0.1)
    assert (rows[0].slowest_quarter, rows[0].fastest_quarter) == (4.375, 12.5)
    assert list(figure.data[0].customdata) == [0]
    assert columns_of(rows)[1][0][5] == "75% (30 to 95)"
    assert how_little(rows).startswith("4 problems say little: 3 of 4 right means an accuracy between 30% and 95%")
    assert how_little([replace(rows[0], n=500)]) == ""


def test_self_speculation_is_a_series_beside_block_diffusion(loaded: OneModel) -> None:
    spec = SweepSpec.of(models=["nano"], block_sizes=[1, 4], self_speculation=True, domain="math", problems=1)
    settings = check_sweep(loaded, spec, OPTIONS).settings
    assert [(each.series, each.block_size) for each in settings] == [
        ("", 1),
        ("block diffusion", 4),
        ("self-speculation", 4),
    ]


def test_own_problems_are_read_kept_and_decoded(loaded: OneModel, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "What is 2 + 3?", "answer": "5"}\n{"prompt": "What is 1 + 1?", "answer": "2"}\n')
    own = OwnProblems()
    key, label, count = own.read(file)
    assert (label, count) == ("mine.jsonl (2 problems)", 2)
    assert own.get("Held-out math") is None
    spec = SweepSpec.of(models=["nano"], block_sizes=[1], problems=1, max_new_tokens=8)
    checked = check_sweep(loaded, spec, OPTIONS, own.get(key))
    assert (checked.prompts, checked.total) == (["What is 2 + 3?"], 1)
    assert table(frames_of(checked.parts))[0].accuracy in (0, 1)
    file.write_text("no json")
    with pytest.raises(NBDiffError, match=r"^mine\.jsonl, line 1"):
        own.read(file)
    with pytest.raises(NBDiffError, match="upload the file again"):
        own.get("own:gone")


def test_an_answer_opens_as_a_lane_beside_ar(maths: list[Frame], loaded: OneModel) -> None:
    spec = SweepSpec.of(models=["nano"], block_sizes=[1, 4], domain="math", problems=2, max_new_tokens=32)
    checked = check_sweep(loaded, spec, OPTIONS)
    lanes = tuple(map(lane_of, checked.settings))
    under_way = UnderWay("run", "me", 4, "", ("", ""), lanes, tuple(checked.prompts), 32)
    listed = answers_of(maths, under_way.prompts, setting=1)
    assert [each["problem"] for each in listed] == [0, 1]
    assert listed[0]["prompt"] == held_out("math", 1)[0].prompt
    assert listed[0]["checked"] in ("right", "wrong")
    opened = opened_answer(under_way, listed[0])
    assert opened.prompt == listed[0]["prompt"]
    assert [(lane.strategy, lane.block_size) for lane in opened.lanes] == [("ar", None), ("block_diffusion", 4)]
    for chosen in (None, [], {}, {"setting": 9, "problem": 0}, {"setting": -1, "problem": 0}, {"setting": "0"}):
        assert opened_answer(under_way, chosen) is None


def test_a_prompt_shows_its_outputs_and_has_no_accuracy(loaded: OneModel) -> None:
    spec = SweepSpec.of(models=["nano"], block_sizes=[2, 64], prompt="What is 2 + 2?", max_new_tokens=8)
    checked = check_sweep(loaded, spec, OPTIONS)
    assert "trained for blocks" in checked.note
    records = table(frames_of(checked.parts))
    assert [record.setting for record in records] == ["1 = AR", "2", "64"]  # AR always runs, as the baseline
    assert all(record.accuracy is None and record.output for record in records)


def test_a_stop_ends_a_sweep_within_an_answer(loaded: OneModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep waits after its first answer until it has been stopped. It ends in its second answer."""
    monkeypatch.setattr(sweep, "_AT_SECONDS", -1.0)  # a progress frame for every event
    answered, stopped = threading.Event(), threading.Event()
    shown: list[Frame] = []

    def wait_after_answers(part: RunPart) -> RunPart:
        def frames() -> Generator[Frame, None, None]:
            with closing(part.frames()) as inner:
                for frame in inner:
                    shown.append(frame)
                    yield frame
                    if isinstance(frame, SweepAnswer):
                        answered.set()
                        assert stopped.wait(PATIENCE)

        return RunPart(part.name, frames)

    worker = Worker(Limits(paint_seconds=0, lease_seconds=PATIENCE))
    worker.start()
    try:
        spec = SweepSpec.of(models=["nano"], domain="story", problems=50)
        run_id = worker.submit([wait_after_answers(part) for part in check_sweep(loaded, spec, OPTIONS).parts])
        assert answered.wait(PATIENCE)
        assert loaded.users == 1
        worker.stop(run_id)
        stopped.set()
        until(lambda: loaded.users == 0)
        assert table(each.frame for each in worker.log(run_id))[0].n == 1
        assert [type(frame) for frame in shown[-2:]] == [SweepAnswer, At]
    finally:
        stopped.set()
        worker.close()


def test_the_progress_of_a_sweep_is_shown(maths: list[Frame]) -> None:
    under_way = UnderWay("run", "me", 8, "Blocks are wide.", ("block size 1 = AR", "block size 4"))
    log: list[Frame] = [At(0, 0, warm_up=True)]
    assert "Warming up: 0 of 8 answers" in progress_html(Reply("running"), log, under_way)
    log += [next(frame for frame in maths if isinstance(frame, SweepAnswer)), At(1, 0)]
    assert "1 of 8 answers; now block size 4" in progress_html(Reply("running"), log, under_way)
    assert "Queued: 2 runs before this one." in progress_html(Reply("queued", ahead=2), [], under_way)
    assert "Done: 8 answers." in progress_html(Reply("finished"), log, under_way)
    assert "Stopped. 1 of 8 answers are in the table." in progress_html(
        Reply("stopped", message="Stopped."), log, under_way
    )
    assert "Blocks are wide." in progress_html(Reply("running"), log, under_way)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"block_sizes": []}, "No block size is chosen"),
        ({"models": []}, "No model is chosen"),
        ({"prompt": "  "}, "The prompt is empty"),
        ({"prompt": "x" * 9000}, "9,000 characters"),
        ({"max_new_tokens": 513}, "at most 512"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"domain": "law"}, "no problems of domain"),
        ({"domain": "math", "problems": 51}, "from 1 to 50"),
        ({"block_sizes": [0]}, "block_size"),
        ({"block_sizes": list(range(1, 200))}, f"at most {sweep.MOST_SETTINGS}"),
        ({"thresholds": [0.5, 0.6, 0.7, 0.8, 0.9]}, f"at most {sweep.MOST_SETTINGS}"),
        ({"thresholds": [1.5]}, "threshold"),
        ({"thresholds": [0.5], "policies": ["margin"]}, "one of the two"),
        ({"policies": ["best"]}, "The policy is"),
        ({"models": ["other"]}, "no model other"),
        ({"problems": "many"}, "problems"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_sweep_raises_one_sentence(loaded: OneModel, fields: dict[str, Any], sentence: str) -> None:
    wanted = {"models": ["nano"], "prompt": "Hello", **fields}
    with pytest.raises(NBDiffError, match=sentence) as caught:
        check_sweep(loaded, SweepSpec.of(**wanted), OPTIONS)
    assert "\n" not in str(caught.value)
