"""The report of an evaluation: its figures and tables, escaped text, and a page that loads nothing."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import write_report
from benchmarks.report_figures import accuracy_against_speed, accuracy_against_tpf, accuracy_by_domain
from benchmarks.report_page import report_html
from benchmarks.report_words import setting_words
from benchmarks.run_files import read_runs
from nbdiff_engine.errors import NBDiffError
from nbdiff_engine.evaluation.aup import aup
from nbdiff_engine.evaluation.statistics import wilson_interval

ROOT = Path(__file__).parent.parent.parent
HOSTILE = "<script>fetch('//x')</script><b>%{x}&amp;\u2028"
ADDED_KEYS = ("curves", "batch_size", "problems_digest", "definitions")  # keys that files of older versions do not have


def figures(right: int, n: int, tpf: float, speed: float) -> dict:
    return {
        "n": n,
        "judged": n,
        "accuracy": right / n,
        "accuracy_interval": list(wilson_interval(right, n)),
        "tokens_per_forward": tpf,
        "tokens_per_second": speed,
        "mean_output_tokens": 30.0,
        "seconds": 2.0,
        "drafted": None,
        "accepted": None,
        "cut_by_length": 0.0,
    }


def result(strategy: str, size: int, threshold: float | None, right: int, tpf: float) -> dict:
    parts = [strategy, f"block_size={size}" if size > 1 else "", f"threshold={threshold}" if threshold else ""]
    return {
        "setting": ",".join(filter(None, parts)),
        "settings": {"strategy": strategy, "block_size": size, "threshold": threshold, "max_new_tokens": 160},
        "overall": figures(right, 100, tpf, 200 * tpf),
        "domains": {
            "math": figures(right // 2, 50, tpf, 200 * tpf),
            "story": figures(right - right // 2, 50, tpf, 1.0),
        },
    }


def a_run(model: str = "nano") -> dict:
    """The contents of an evaluation file."""
    results = [
        result("ar", 1, None, 96, 1.0),
        result("block_diffusion", 8, 0.5, 85, 4.5),
        result("block_diffusion", 8, 0.9, 95, 3.5),
        result("block_diffusion", 16, 0.9, 93, 6.0),
        result("self_speculative", 16, None, 96, 5.0),
    ]
    comparison = {
        "model": model,
        "setting": results[1]["setting"],
        "baseline_model": model,
        "baseline_setting": "ar",
        "judged": 100,
        "accuracy_points": -11.0,
        "interval_points": [-18.0, -4.0],
        "only_this_right": 1,
        "only_baseline_right": 12,
        "mcnemar_p": 0.0034,
        "seconds_ratio": 0.3,
        "tokens_per_second_ratio": 4.25,
        "identical": 70,
        "differences": [{"problem": each, "domain": "math", "position": 1, "logit_gap": 2.0} for each in range(30)],
    }
    entry = {
        "name": model,
        "parameters": 4_800_000,
        "dtype": "bfloat16",
        "device": "cpu",
        "threads": 1,
        "code_run": True,
        "not_judged": None,
        "results": results,
    }
    return {
        "machine": {"cpu": "Some CPU", "cores": 2, "gpu": None, "torch": "2.13.0", "date": "2026-11-25"},
        "problems": {"math": 50, "story": 50},
        "max_new_tokens": 160,
        "models": [entry],
        "comparisons": [comparison],
        "curves": [],
        "batch_size": 1,
        "problems_digest": "one",
        "definitions": {},
    }


@pytest.fixture
def write(tmp_path):
    def write(run, name: str = "run.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(run))
        return path

    return write


@pytest.fixture
def rows(write):
    return read_runs([write(a_run())]).rows


# -- figures ------------------------------------------------------------------------------------------------


def test_a_line_is_a_strategy_and_block_size_over_its_thresholds(rows):
    traces = {trace.name: trace for trace in accuracy_against_tpf(rows).data}
    assert {name: (list(trace.x), list(trace.y)) for name, trace in traces.items()} == {
        "nano, AR": ([1.0], [96.0]),
        "nano, block diffusion, block 8": ([3.5, 4.5], [95.0, 85.0]),
        "nano, block diffusion, block 16": ([6.0], [93.0]),
        "nano, self-speculation, block 16": ([5.0], [96.0]),
    }
    styles = [(trace.line.color, trace.marker.symbol) for trace in traces.values()]
    assert len(set(styles)) == len(styles)


def test_error_bars_are_the_intervals(rows):
    trace = accuracy_against_tpf(rows).data[1]
    low, high = wilson_interval(95, 100)
    assert trace.error_y.array[0] == pytest.approx(100 * high - 95)
    assert trace.error_y.arrayminus[0] == pytest.approx(95 - 100 * low)


def test_speed_is_drawn_for_the_same_settings(rows):
    assert list(accuracy_against_speed(rows).data[1].x) == [700.0, 900.0]


def test_the_hover_text_has_every_setting(rows):
    words = accuracy_against_tpf(rows).data[1].hovertext[0]
    for part in ("95.0 % right", "3.50 tokens per forward", "700 tokens/s", "block_size 8", "threshold 0.9", "160"):
        assert part in words


def test_the_y_axis_contains_every_interval_and_a_small_margin(rows):
    low, high = accuracy_against_tpf(rows).layout.yaxis.range
    lowest = 100 * wilson_interval(85, 100)[0]
    assert lowest - 3 < low < lowest
    assert 100 * wilson_interval(96, 100)[1] < high <= 102


def test_axes_are_labelled(rows):
    for draw in (accuracy_against_tpf, accuracy_against_speed, accuracy_by_domain):
        assert draw(rows).layout.yaxis.title.text == "Accuracy"
    assert accuracy_against_tpf(rows).layout.xaxis.title.text == "Tokens per forward"
    assert accuracy_against_speed(rows).layout.xaxis.title.text == "Output tokens/s"


def test_bars_show_the_domains_and_begin_at_zero(rows):
    figure = accuracy_by_domain(rows)
    assert [(list(trace.x), list(trace.y)) for trace in figure.data][:2] == [
        (["math", "story"], [96.0, 96.0]),
        (["math", "story"], [84.0, 86.0]),
    ]
    assert figure.layout.yaxis.range[0] == 0


def test_with_many_settings_only_the_best_of_each_strategy_is_visible(write):
    run = a_run()
    more = [result("block_diffusion", 32, threshold / 10, 50 + threshold, 9.0) for threshold in range(1, 9)]
    run["models"][0]["results"] += more
    shown = [trace.name for trace in accuracy_by_domain(read_runs([write(run)]).rows).data if trace.visible is True]
    assert shown == ["nano, AR", "nano, block diffusion, block 8, threshold 0.9", "nano, self-speculation, block 16"]


def test_the_words_for_a_setting():
    assert setting_words("block_diffusion,block_size=8,unmasking=confidence,threshold=0.7") == (
        "block diffusion, block 8, threshold 0.7"
    )
    assert setting_words("block_diffusion,block_size=8,unmasking=confidence") == (
        "block diffusion, block 8, unmasking confidence"
    )
    assert setting_words("block_diffusion,block_size=8,threshold=0.7", without=8) == "threshold 0.7"
    assert setting_words("ar") == "AR"


# -- the page -----------------------------------------------------------------------------------------------


def test_the_page_has_the_tables(write):
    page = report_html(read_runs([write(a_run())]))
    score = aup([(1, 96), (3.5, 95), (4.5, 85)], best=96)
    for part in (f"<td>{score:.1f}</td>", "<td>2 of 3</td>", "<td>-18.0 to -4.0</td>", "<td>0.0034</td>", "70 of 100"):
        assert part in page
    for part in ("Some CPU", "torch 2.13.0", "2026-11-25", "4.8M parameters, bfloat16, cpu, 1 thread"):
        assert part in page


def test_text_from_a_file_is_escaped(write):
    run = a_run(HOSTILE)
    run["machine"]["cpu"] = HOSTILE
    run["problems"] = {HOSTILE: 100}
    run["models"][0]["not_judged"] = HOSTILE
    for each in run["models"][0]["results"]:
        each["settings"]["stop"] = [HOSTILE]
        each["domains"] = {HOSTILE: each["domains"]["math"]}
    page = report_html(read_runs([write(run)]))
    assert "<script>fetch" not in page
    assert page.count("<script") == report_html(read_runs([write(a_run())])).count("<script")
    assert "&lt;script&gt;fetch" in page
    (figures,) = re.findall(r"^const FIGURES = .*$", page, re.MULTILINE)
    assert "<" not in figures


def test_the_page_loads_nothing(write):
    page = report_html(read_runs([write(a_run())]))
    assert "default-src 'none'" in page
    # The text before and after the inlined library contains no address.
    own = page[: page.index("<script>")] + page[page.rindex("<script>") :]
    assert not re.search(r"https?://|src=|href=", own)


def test_files_of_older_versions_are_drawn_the_same(write):
    new, old = a_run(), a_run()
    for name in ADDED_KEYS:
        del old[name]
    for each in old["models"][0]["results"]:
        for own in (each["overall"], *each["domains"].values()):
            del own["accuracy_interval"]
    assert report_html(read_runs([write(old)])) == report_html(read_runs([write(new)]))


def test_several_runs_have_their_names_and_share_one_best_accuracy(write):
    other = a_run()
    other["models"][0]["results"][0] = result("ar", 1, None, 99, 1.0)
    runs = read_runs([write(a_run(), "one.json"), write(other, "two.json")])
    assert {row.model for row in runs.rows} == {"one: nano", "two: nano"}
    assert {curve.best for curve in runs.curves()} == {99.0}
    assert "different" not in report_html(runs).split("<script>")[0]


def test_the_page_notes_that_runs_cannot_be_compared(write):
    other = copy.deepcopy(a_run())
    other["problems_digest"], other["batch_size"] = "two", 8
    other["models"][0]["results"][0] = result("ar", 1, None, 99, 1.0)
    runs = read_runs([write(a_run(), "one.json"), write(other, "two.json")])
    assert [curve.best for curve in runs.curves() if curve.block_size == 8] == [96.0, 99.0]
    page = report_html(runs)
    assert "answered different problems" in page
    assert "tokens/s cannot be compared" in page
    assert "its rows over its wall time" in page


# -- the command --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_last_line_is_json(write, tmp_path):
    output = tmp_path / "report.html"
    command = [sys.executable, "benchmarks/report.py", str(write(a_run())), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary == {"report": str(output), "runs": 1, "settings": 5, "bytes": output.stat().st_size}


def broken(**changes) -> str:
    return json.dumps({**a_run(), **changes})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no JSON", "is not JSON"),
        ("[]", "is not an evaluation that this report can read"),
        ("{}", "'machine' is missing"),
        (broken(models=[]), "has no results"),
        (broken(models=[{**a_run()["models"][0], "results": [{"setting": "ar"}]}]), "settings' is missing"),
        (broken(batch_size="many"), "batch_size is 'many'"),
    ],
)
def test_a_file_that_is_not_an_evaluation_gives_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(NBDiffError) as error:
        write_report([path], tmp_path / "report.html")
    assert sentence in str(error.value)
    assert str(path) in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_paths_that_cannot_be_used_give_one_sentence(write, tmp_path):
    path = write(a_run())
    for files, output, sentence in (
        ([tmp_path / "none.json"], tmp_path / "report.html", "There is no file"),
        ([path], tmp_path, "that is a folder"),
        ([path], tmp_path / "nosuch" / "report.html", "does not exist"),
        ([path], path, "would overwrite it"),
    ):
        with pytest.raises(NBDiffError, match=sentence):
            write_report(files, output)
    assert json.loads(path.read_text()) == a_run()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_disk_in_a_browser(write, tmp_path, scheme):
    from tests.playground.visiting import CHROMIUM, FLAGS, PATIENCE, expect, sync_api

    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed")
    run = a_run(HOSTILE)
    output = tmp_path / "report.html"
    write_report([write(run)], output)
    requests, errors = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(color_scheme=scheme, viewport={"width": 420, "height": 900}).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.set_default_timeout(PATIENCE)
        page.goto(output.as_uri())
        expect(page.locator("#accuracy-domain .bars")).to_have_count(5)
        expect(page.locator("#accuracy-tpf .scatterlayer .trace")).to_have_count(4)
        expect(page.locator("#accuracy-tpf .errorbar")).to_have_count(5)
        assert "<script>fetch('//x')</script>" in page.locator("#accuracy-tpf .legendtext").first.text_content()
        ink = page.locator("#accuracy-tpf .ytitle").evaluate("node => getComputedStyle(node).fill")
        assert ink == {"light": "rgb(31, 35, 40)", "dark": "rgb(230, 237, 243)"}[scheme]
        assert page.evaluate("document.documentElement.scrollWidth") == 420
        browser.close()
    assert requests == [output.as_uri()]
    assert errors == []
