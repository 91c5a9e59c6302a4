"""The training tab in a real browser: a job is started, watched across reloads, stopped, resumed and opened."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.training_tab.curves import NOT_MEASURED
from tests.playground import recordings, visiting
from tests.playground.serving import PATCHED_APP, Server, serving
from tests.training.jobs.conftest import STAND_IN, end_all, hold_jobs, release
from tests.training.sharing.stand_ins import local_hub

sync_api = visiting.sync_api
Page, expect = sync_api.Page, sync_api.expect
pytestmark = visiting.BROWSER_TEST

PATIENCE = visiting.PATIENCE


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the server's jobs. All their processes are killed at the end."""
    folder = tmp_path_factory.mktemp("home")
    yield folder
    end_all(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Server]:
    """The playground, with trainers that replay a recorded run."""
    folder = tmp_path_factory.mktemp("training")
    recording = recordings.write(folder / "recording", steps=200)
    stand_in = {"NBDIFF_JOB_TRAINER": str(STAND_IN), "NBDIFF_STAND_IN_RECORDING": str(recording)}
    with serving(folder, NBDIFF_HOME=str(home), **stand_in) as server:
        yield server


@pytest.fixture
def held(home: Path) -> Iterator[Path]:
    """The home. Its jobs wait after step 60 until the test calls `release`."""
    hold_jobs(home, 60)
    yield home
    (home / "hold").unlink(missing_ok=True)


@pytest.fixture
def page(used_page: Page) -> Page:
    """The form of a new job, in the one page of this module."""
    used_page.get_by_role("tab", name="Training", exact=True).click()
    used_page.get_by_role("tab", name="New job", exact=True).click()
    return used_page


def start(page: Page, name: str, steps: int = 40) -> None:
    page.locator("#job-steps input").fill(str(steps))
    page.locator("#job-name").get_by_role("textbox").fill(name)
    page.locator("#job-start").click()
    expect(page.locator("#job h3")).to_contain_text(name, timeout=PATIENCE)


def state(page: Page) -> sync_api.Locator:
    return page.locator("#job .badge")


def until_finished(page: Page) -> None:
    expect(state(page)).to_have_text("finished", timeout=4 * PATIENCE)  # a replay of 200 steps takes 24 seconds


@pytest.mark.slow
def test_a_job_is_started_reloaded_in_the_middle_stopped_and_resumed(page: Page, held: Path) -> None:
    name = '<img src=x onerror="window.hacked=1">'
    start(page, name, steps=200)
    expect(state(page)).to_have_text("running")
    expect(page.locator("#job-losses .js-plotly-plot")).to_be_visible()
    page.reload()
    expect(page.locator("#job h3")).to_contain_text(name, timeout=PATIENCE)
    expect(state(page)).to_have_text("running")
    page.locator("#job-stop").click()
    expect(state(page)).to_have_text("stopped", timeout=PATIENCE)
    expect(page.locator("#job-stop")).to_be_disabled()
    release(held)
    page.locator("#job-resume").click()
    until_finished(page)
    expect(page.locator("#probe-text")).to_contain_text("5 <script>")
    # Gradio would answer a typed number outside of the limits with a traceback: there is no field to type in.
    expect(page.locator("#probe-at").get_by_role("spinbutton")).to_have_count(0)
    page.locator("#probe-at").get_by_role("slider").press("Home")
    expect(page.locator("#probe-text")).to_contain_text("checkpoint 1 of 2")
    expect(page.locator("#job-losses .annotation-text").nth(2)).to_be_visible()  # the phases of its growth
    page.get_by_role("button", name="Learning rate, gradient, memory and GPU").click()
    for line in ("Gradient norm", "RAM", "GPU, held by PyTorch", "GPU use"):
        expect(page.locator("#job-machine .legendtext").filter(has_text=line)).to_be_visible()
    # The losses by tokens, and smoothed.
    axis = page.locator("#job-losses .xtitle")
    expect(axis).to_have_text("Step")
    page.get_by_label("Tokens", exact=True).filter(visible=True).check()
    expect(axis).to_contain_text("okens")
    curve = page.locator("#job-losses .scatterlayer path.js-line").first
    rough = curve.get_attribute("d")
    page.get_by_label("Smoothed", exact=True).check()
    expect(curve).not_to_have_attribute("d", rough)
    with page.expect_download() as waiting:
        page.locator("#job-csv").click()
    assert Path(waiting.value.path()).read_text().startswith("step,loss,loss_mdm")
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-table-of-runs")).to_contain_text(name)
    page.get_by_label("Search runs").fill("no such run")
    expect(page.locator("#compare-table-of-runs")).to_contain_text("No run has these words.")
    expect(page.locator("#compare-table-of-runs")).not_to_contain_text(name)
    assert page.evaluate("window.hacked") is None


@pytest.mark.slow
def test_a_checkpoint_is_opened_beside_its_base(page: Page) -> None:
    start(page, "to be raced")
    until_finished(page)
    page.locator("#job-zip").click()
    expect(page.locator("#job-zip-file")).to_be_visible()
    with page.expect_download() as waiting:
        page.locator("#job-zip-file").click()
    assert zipfile.is_zipfile(waiting.value.path())
    page.get_by_role("button", name="Model card").click()
    expect(page.locator("#job-card")).to_contain_text("nano-ar")
    page.locator("#job-open").click()
    expect(page.locator("#lanes fieldset")).to_have_count(2, timeout=PATIENCE)
    assert page.locator("#lanes [data-field=model]").first.input_value() == "nano-ar"
    assert page.locator("#lanes [data-field=model]").last.input_value() == "to be raced"
    expect(page.locator("[data-note]")).to_contain_text("AR with nano-ar and Block diffusion with to be raced")
    expect(page.locator("#about-model")).to_contain_text("to be raced, 4.8M parameters")
    expect(page.locator("[data-lanes] h2").first).to_be_visible()  # the race on the stage stays
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("region", name="Block diffusion", exact=True)).to_be_visible()


@pytest.mark.slow
def test_runs_are_compared_in_plots_and_in_a_table(page: Page) -> None:
    names = {"short run": 40, "long run": 80}
    for name, steps in names.items():
        page.get_by_role("tab", name="New job", exact=True).click()
        start(page, name, steps)
        until_finished(page)
    page.get_by_role("tab", name="Compare").click()
    for name in names:
        page.get_by_label("Search runs").fill(name)
        (other,) = names.keys() - {name}
        expect(page.locator("#compare-table-of-runs")).not_to_contain_text(other)  # the search is answered
        page.locator("#compare-table-of-runs").get_by_role("gridcell", name=name).click()
        expect(page.locator("#compare-runs")).to_contain_text(name)
    plots = page.locator("#compared .js-plotly-plot")
    expect(plots).to_have_count(5)
    for plot in plots.all()[:-1]:  # losses, block size, held-out loss
        for name in names:
            expect(plot.locator(".legendtext").filter(has_text=name)).to_be_visible()
    expect(plots.last).to_contain_text(NOT_MEASURED)  # the accepted run, which the recording has not
    expect(page.locator("#compare-table")).to_contain_text("optimisation.max_steps")


@pytest.mark.slow
def test_a_model_is_uploaded_to_the_hub_after_a_question(
    browser: visiting.Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = recordings.write(tmp_path / "recording", steps=20)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with local_hub() as hub:
        environment = {
            "NBDIFF_HOME": str(tmp_path / "home"),
            "NBDIFF_JOB_TRAINER": str(STAND_IN),
            "NBDIFF_STAND_IN_RECORDING": str(recording),
            "NBDIFF_TEST_HUB": hub.address,
        }
        with (
            serving(tmp_path, "--hub", app=PATCHED_APP, **environment) as server,
            visiting.opened(browser, server) as page,
        ):
            page.get_by_role("tab", name="Training", exact=True).click()
            start(page, "to be uploaded", steps=20)
            until_finished(page)
            page.get_by_label("Upload to the hub as").fill("someone/mine")
            page.get_by_role("button", name="Upload…").click()
            question = page.locator("#job-hub-sure")
            expect(question).to_contain_text("someone/mine, which only its owner can read")
            question.get_by_role("button", name="Cancel").click()
            expect(question).to_be_hidden()
            assert (hub.created, hub.files) == ([], {})
            page.get_by_role("button", name="Upload…").click()
            question.get_by_role("button", name="Upload now").click()
            expect(page.locator("#watch-said")).to_contain_text(f"Uploaded: {hub.address}/someone/mine/commit/1")
            assert {"config.json", "model.safetensors", "README.md"} <= set(hub.files)
    end_all(tmp_path / "home")


def test_own_data_is_looked_at_and_previewed(page: Page, tmp_path: Path) -> None:
    steps = page.locator(".step h3").filter(visible=True)
    expect(steps).to_have_text(["1 Model", "2 Data", "3 Check", "4 Train"])
    expect(page.locator("#job-need")).to_contain_text("steps of")  # the estimate is there from the beginning
    file = tmp_path / "own.jsonl"
    file.write_text('{"frage": "What is <b>it</b>?", "antwort": "It is a word."}\n' * 20)
    with page.expect_file_chooser() as chooser:
        page.locator("#job-upload").click()
    chooser.value.set_files(file)
    expect(page.locator("#data-said")).to_have_text(
        "own.jsonl: 20 rows with the columns frage, antwort. Choose which of them to read."
    )
    page.locator("#job-start").click()
    expect(page.locator("#job-said")).to_contain_text("Choose which of them to read.")
    for column, name in (("prompt", "frage"), ("answer", "antwort")):
        page.locator(f"#data-{column} input").click()
        page.get_by_role("option", name=name).click()
    expect(page.locator("#data-said")).to_contain_text("20 rows of prompts with answers")
    expect(page.locator("#job-command")).to_contain_text("data.columns=")
    # Another recipe keeps the data, and each change has its estimate.
    for recipe, steps in (("LoRA, any model", 600), ("Try it: nano-ar in a minute", 40)):
        page.locator("#job-preset input").click()
        page.get_by_role("option", name=recipe).click()
        expect(page.locator("#job-need")).to_contain_text(f"{steps} steps of")
        expect(page.locator("#job-command")).to_contain_text(f"--max-steps {steps}")
        expect(page.locator("#job-command")).to_contain_text("data.columns=")
        expect(page.locator("#job-data input")).to_have_value("own.jsonl (uploaded)")
    # Of a text field too, however it is filled.
    length = page.locator("#job-steps input")
    length.press("End")
    length.press("Backspace")
    expect(page.locator("#job-need")).to_contain_text("4 steps of")
    length.fill("70")
    expect(page.locator("#job-need")).to_contain_text("70 steps of")
    length.press("Control+A")
    page.keyboard.insert_text("90")  # as a paste or a completion does
    expect(page.locator("#job-need")).to_contain_text("90 steps of")
    expect(page.locator("#job-command")).to_contain_text("--max-steps 90")
    page.locator("#job-preview-button").click()
    preview = page.locator("#job-preview")
    expect(preview).to_contain_text("What is <b>it</b>?")
    expect(preview.locator(".masked").first).to_be_visible()
    expect(preview.get_by_role("img", name="Training mask of one document")).to_be_visible()
    page.get_by_role("checkbox", name="LoRA", exact=True).check()
    expect(preview).to_be_hidden()  # it is of other settings
    page.get_by_role("checkbox", name="LoRA", exact=True).uncheck()


def test_a_wrong_setting_gives_a_message_a_right_one_is_in_the_command_and_a_job_is_deleted(
    page: Page, held: Path
) -> None:
    page.get_by_role("button", name="All settings").click()
    page.locator("#set-blocks-b_max input").fill("0")
    expect(page.get_by_role("alert").filter(has_text="Last block size (tokens): 0 is not allowed")).to_be_visible()
    page.locator("#set-blocks-b_max input").fill("8")
    expect(page.locator("#job-command")).to_contain_text("blocks.b_max=8")
    page.get_by_label("TensorBoard", exact=True).check()
    expect(page.locator("#job-command")).to_contain_text("saving.trackers=")
    page.get_by_label("TensorBoard", exact=True).uncheck()
    expect(page.locator("#job-command")).not_to_contain_text("saving.trackers=")
    start(page, "to be deleted", steps=200)
    page.locator("#job-stop").click()
    expect(state(page)).to_have_text("stopped", timeout=PATIENCE)
    page.locator("#job-delete").click()
    expect(page.locator("#jobs")).to_contain_text("to be deleted")
    page.locator("#job-really").click()
    expect(page.locator("#jobs").filter(has_text="to be deleted")).to_have_count(0)
    expect(page.locator("#job")).to_be_hidden()


@pytest.mark.slow
def test_on_a_phone_nothing_of_the_training_tab_is_cut(browser: visiting.Browser, server: Server) -> None:
    phone = {"viewport": {"width": 380, "height": 760}, "has_touch": True, "is_mobile": True}
    with visiting.opened(browser, server, **phone) as page:
        page.get_by_role("tab", name="Training").tap()
        for tab, last in (("New job", "#job-start"), ("Compare", "#compare-log-scale label")):
            page.get_by_role("tab", name=tab).tap()
            expect(page.locator(last)).to_be_visible()
            box = page.locator(last).bounding_box()
            assert box["width"] > 80
            assert box["x"] + box["width"] <= 380
            assert page.evaluate("document.documentElement.scrollWidth") <= 380
