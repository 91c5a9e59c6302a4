"""The training tab without a browser: the form, its jobs, and the views of a job's folder."""

import json
import shlex
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from nbdiff_engine import NBDiffError, load
from playground.options import ServerOptions, StartError
from playground.server.loaded_models import LoadedModels
from playground.server.worker import Limits, Worker
from playground.training_tab import curves, estimates
from playground.training_tab.asked import Asked, checked_name, form_fields, preset_of, shown_values
from playground.training_tab.compare import Compare, differing
from playground.training_tab.fields import flat
from playground.training_tab.form import JobForm
from playground.training_tab.tab import TrainingTab
from playground.training_tab.trackers import names_in
from playground.training_tab.watch import Watch
from tests.playground.training_tab.forms import filled
from tests.training.jobs.conftest import hold_jobs, in_state, release, until
from training.errors import RecipeError
from training.jobs import Jobs, TrainingJob
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes
from training.run import trackers

HOSTILE = ("a; touch /tmp/owned", "$(touch x)", "`id`", "../../etc/passwd", "/etc/passwd", "a\nb", "x" * 1_000_000)


def finished(jobs: Jobs, form: JobForm, **changed: Any) -> TrainingJob:
    job = form.submit(*filled(**changed))
    until((job.folder / "estimate.json").exists)
    return in_state(jobs, job, "finished")


# -- the form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", list(bundled_recipes()))
def test_an_unchanged_form_gives_the_recipe_of_the_preset(preset: str) -> None:
    recipe = Recipe.read(preset)
    asked = Asked.of(preset, None, None, None, None, recipe.lora is not None, None, shown_values(recipe))
    assert asked.settings == {}
    assert asked.recipe() == recipe


def test_only_changed_values_become_settings(form: JobForm) -> None:
    asked = form.asked(
        *filled(blocks__b_max=8, optimisation__learning_rate="2e-4", data__weights="{math: 2}", saving__probes="no")
    )
    assert dict(asked.settings) == {
        "blocks.b_max": 8,
        "optimisation.learning_rate": 2e-4,
        "data.weights": {"math": 2},
        "saving.probes": False,
    }
    recipe = asked.recipe()
    assert (recipe.blocks.b_max, recipe.optimisation.learning_rate) == (8, 2e-4)
    assert recipe.saving.probes is False
    assert asked.spec().resolved() == recipe


def test_lora_and_quantisation_are_switched_on_and_off(form: JobForm) -> None:
    on = form.asked(*filled(lora=True, quantization="4 bit")).recipe()
    assert (on.lora.rank, on.quantization) == (16, "4bit")
    shown = shown_values(Recipe.read("qwen3-0.6b-lora"))
    off = Asked.of("qwen3-0.6b-lora", None, None, None, None, False, None, shown)
    assert off.recipe().lora is None


def test_the_command_is_an_exact_shell_line(form: JobForm) -> None:
    news = form.described(*filled(blocks__b_max=8, max_steps=20))
    command = news[form.command]
    assert news[form.said] == ""
    python = shlex.quote(sys.executable)
    assert command.startswith(f"{python} -m training adapt --recipe smoke --base nano-ar --data corpus --max-steps 20")
    assert command.endswith("--set blocks.b_max=8")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"optimisation__rows": 0}, "Rows per forward: 0 is not allowed; it must be at least 1."),
        ({"optimisation__rows": None}, "Rows per forward: None is not allowed; it must be a whole number."),
        ({"optimisation__learning_rate": "fast"}, "earning rate: 'fast' is not allowed; it must be a number."),
        ({"blocks__sizes": "[1, 2"}, "Block sizes (list): '[1, 2' is not allowed; it cannot be read"),
        ({"blocks__sizes": "[4, -1]"}, "Block sizes (list): -1 is not allowed; it must be at least 1."),
        ({"max_steps": 1e12}, "Steps: 1000000000000 is not allowed; it must be at most 1000000000."),
        ({"quantization": "8 bit"}, "quantised weights are frozen"),
        ({"max_steps": 1.5}, "The number of steps is 1.5"),
        ({"max_steps": None, "epochs": -1}, "The number of epochs is -1; give a number above 0"),
        ({"max_steps": 9, "epochs": 2}, "9 steps and 2 epochs; leave one of them empty"),
        ({"base": "no-such-model"}, "'no-such-model' is no bundled model"),
        ({"base": "owner/model"}, "the hub is off"),
        ({"data": "upload:../../x"}, "This upload no longer exists"),
    ],
)
def test_a_wrong_value_gives_one_sentence(form: JobForm, changed: dict[str, Any], sentence: str) -> None:
    news = form.described(*filled(**changed))
    message = news[form.said]
    assert news[form.command] == ""
    assert sentence in message.replace("&#x27;", "'")
    assert message.startswith('<p class="said error" role="alert">')


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_bases_and_data_are_refused(form: JobForm, text: str) -> None:
    for field in ("base", "data", "data__self_data__prompts"):
        with pytest.raises(NBDiffError):
            form.asked(*filled(**{field: text}))


def test_a_name_is_one_line() -> None:
    assert checked_name("  $(touch x); ../  ", "smoke") == "$(touch x); ../"
    assert checked_name("", "smoke") == "smoke"
    for name in ("a\nb", "x" * 1_000_000):
        with pytest.raises(RecipeError):
            checked_name(name, "smoke")


def test_the_figure_of_block_growth_follows_the_form(form: JobForm) -> None:
    figure = form.described(*filled(blocks__b_max=4))[form.growth]
    assert list(figure.data[0].x) == [1, 5, 9, 40]
    assert list(figure.data[0].y) == [1, 2, 4, 4]
    assert list(curves.growth(None, 10).data[0].y) == [1, 1]


def test_the_data_preview_of_a_form_is_escaped(form: JobForm) -> None:
    news = form.previewed(*filled())
    text = news[form.preview_shown]["value"]
    assert 'role="status"' in news[form.said]
    assert "&lt;user&gt;" in text
    assert "<user>" not in text
    assert "Who attends to whom" in text
    assert text.count('class="t masked"') > 5


def test_memory_and_time_are_estimated(form: JobForm) -> None:
    message = form.estimated(*filled())[form.need]
    assert "Memory: about" in message
    assert "Time: at least" in message


def test_the_estimate_follows_each_change_unless_it_takes_data_or_a_download(form: JobForm) -> None:
    assert "Memory: about" in form.needed(*filled(blocks__b_max=8))[form.need]
    assert "counts the steps of an epoch" in form.needed(*filled(max_steps=None, epochs=1))[form.need]
    assert form.needed(*filled(optimisation__rows=0))[form.need] == ""  # `described` shows the error
    recipe = preset_of("smoke")
    assert "reads the shape of model first" in estimates.at_once(recipe.model_copy(update={"base": "owner/model"}))
    assert "million parameters" in estimates.at_once(recipe.model_copy(update={"base": "Qwen/Qwen3-0.6B"}))


def test_a_ticked_tracker_is_a_setting_or_refused_in_one_sentence(
    form: JobForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks, setting = form.trackers, form._field("saving.trackers")
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    news = ticks.ticked(["TensorBoard"], "[wandb]")
    assert (news[ticks.ticks], news[form.said]) == (["TensorBoard"], "")
    assert form.asked(*filled(saving__trackers=news[setting])).recipe().saving.trackers == ("tensorboard", "wandb")
    news = ticks.ticked(["trackio"], "[tensorboard]")
    assert news[ticks.ticks] == []
    assert "trackio, which is not installed; run pip install trackio" in news[form.said]
    assert names_in(news[setting]) == []
    with pytest.raises(RecipeError, match="wandb, which is not installed"):
        form.submit(*filled(saving__trackers="[wandb]"))


def test_an_upload_is_stored_under_a_name_that_the_server_makes(form: JobForm, tmp_path: Path) -> None:
    file = tmp_path / "my $(data).jsonl"
    file.write_text('{"text": "hello"}\n')
    own = form.own_data
    news = own.uploaded(str(file))
    assert "my___data_.jsonl: 1 row of plain text, read from the column text." in news[own.said]
    path = Path(form.asked(*filled(data=news[form.parts.data]["value"])).recipe().data.source)
    assert path.is_relative_to(tmp_path / "uploads")
    assert path.name == "my___data_.jsonl"
    wrong = own.uploaded(str(shutil.copy(file, tmp_path / "x.exe")))
    assert "cannot be read as data" in wrong[own.said]


# -- jobs ----------------------------------------------------------------------------------------------------


def test_a_form_is_submitted_as_a_job_and_watched(form: JobForm, jobs: Jobs) -> None:
    job = finished(jobs, form, name="<b>bold</b>")
    assert (job.name, job.spec.recipe, job.spec.max_steps) == ("<b>bold</b>", "smoke", 40)
    watch = Watch(jobs)
    with gr.Blocks():
        watch.build()
    news = watch.tick(job.id, None, False)
    assert set(news) <= set(watch.outputs)
    head = news[watch.head]
    assert "&lt;b&gt;bold&lt;/b&gt;" in head
    assert "<b>bold" not in head
    assert 'data-state="finished"' in head
    assert "estimated" in head  # next to the measured figures
    assert [value for _, value in news[watch.checkpoint]["choices"]] == ["final", "40", "20"]
    assert news[watch.open]["interactive"] is True
    assert "base: nano-ar" in news[watch.settings]
    assert news[watch.card] == (job.run / "final" / "README.md").read_text()
    assert {trace.name for trace in news[watch.losses].data} == {"Masked tokens (MDM)", "Next tokens (AR)"}
    assert watch.tick(job.id, news[watch.seen], False) == gr.skip()


def test_a_note_is_kept_with_its_run_and_found_by_the_search(form: JobForm, jobs: Jobs) -> None:
    job = finished(jobs, form)
    watch, compare = Watch(jobs), Compare(jobs)
    with gr.Blocks():
        watch.build()
        compare.build()
    seen = watch.tick(job.id, None)[watch.seen]
    assert "kept" in watch.notes.keep(job.id, " larger blocks\nhelp <b>stories</b> ")[watch.said]
    assert watch.tick(job.id, seen)[watch.notes.text] == "larger blocks\nhelp <b>stories</b>"
    assert watch.notes.keep(job.id, "larger blocks\nhelp <b>stories</b>") == gr.skip()
    found = compare.refreshed("blocks STORIES")[compare.runs]["value"]
    assert dict(zip(found["headers"], found["data"][0]))["Notes"] == "larger blocks help <b>stories</b>"
    assert "2,001 characters" in watch.notes.keep(job.id, "x" * 2001)[watch.said]
    watch.notes.keep(job.id, "")
    assert compare.refreshed("stories")[compare.runs]["value"]["data"][0][0] == "No run has these words."
    assert 'role="alert"' in watch.notes.keep("../no", "x")[watch.said]


def test_a_model_is_packed_into_one_zip_file(form: JobForm, jobs: Jobs) -> None:
    job = finished(jobs, form, name="../my run")
    watch = Watch(jobs)
    with gr.Blocks():
        watch.build()
    packed = watch.zip
    *_, news = packed.written(job.id, "20")
    first = Path(news[packed.file]["value"])
    with zipfile.ZipFile(first) as archive:
        assert "-my-run-step-20/config.json" in archive.namelist()
        assert not any(name.endswith("optimizer.safetensors") for name in archive.namelist())
    final = packed.zip_of(job.id, "final")
    assert zipfile.ZipFile(final).testzip() is None
    assert (final.name, first.exists()) == ("-my-run-final.zip", False)
    *_, news = packed.written(job.id, "7")
    assert "no checkpoint of step" in news[watch.said]
    assert not news[packed.file]["visible"]


def test_the_finished_model_of_a_job_can_be_a_base(form: JobForm, jobs: Jobs) -> None:
    job = finished(jobs, form)
    assert (f"{job.name} (finished job)", f"job:{job.id}") in form.access.bases()
    asked = form.asked(*filled(base=f"job:{job.id}"))
    assert asked.base == str(job.run / "final")
    assert form.access.named(asked.base) == f"job:{job.id}"


def test_a_duplicate_has_the_settings_of_the_run_and_not_of_the_form(
    loaded: LoadedModels, jobs: Jobs, recording: Path
) -> None:
    tab = TrainingTab(loaded, Worker(Limits()), ServerOptions(), jobs)
    with gr.Blocks():
        tab.build(gr.State(None))
    job = finished(jobs, tab.form, optimisation__rows=3)
    changed = (job.run / "recipe.yaml").read_text().replace("rows: 3", "rows: 5")
    (job.run / "recipe.yaml").write_text(changed)
    news = tab.duplicate(job.id)
    values = [news[part] for part in tab.form.parts.all()]
    plain = [each.get("value") if isinstance(each, dict) else each for each in values]
    assert tab.form.asked(*plain).recipe() == Recipe.read(str(job.run / "recipe.yaml"))


def test_a_finished_job_refuses_save_and_resume_in_one_sentence(form: JobForm, jobs: Jobs) -> None:
    job = finished(jobs, form)
    watch = Watch(jobs)
    with gr.Blocks():
        watch.build()
    assert "only a running job can save" in watch._acted(jobs.save_now)(job.id)[watch.said]
    assert "only a stopped, failed or lost job can be resumed" in watch._acted(jobs.resume)(job.id)[watch.said]
    assert watch._acted(jobs.stop)(job.id)[watch.said] == ""  # no error: it has ended already
    assert jobs.get(job.id).state == "finished"
    assert 'role="alert"' in watch._acted(jobs.stop)("../no")[watch.said]


def test_two_runs_are_compared(form: JobForm, jobs: Jobs) -> None:
    one, two = finished(jobs, form), finished(jobs, form)
    path = two.run / "recipe.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 7"))
    compare = Compare(jobs)
    with gr.Blocks():
        compare.build()
    news = compare.compared([one.id, two.id], False)
    assert news[compare.said] == ""
    assert news[compare.shown]["visible"]
    assert len(compare.figures) == 3
    assert all(len(news[figure].data) == 2 for figure in [*compare.figures, compare.held_out[0]])
    assert len(news[compare.held_out[1]].data) == 0  # no drafts in these runs
    listed = compare.refreshed()[compare.runs]["value"]
    first = dict(zip(listed["headers"], listed["data"][0], strict=True))
    assert (first["Base"], first["Steps"], first["MDM loss"], first["Held-out loss"]) == (
        "nano-ar",
        "40",
        "0.075",
        "0.025",
    )
    assert (first["Tokens per forward"], first["Accuracy"], first["Job"]) == ("2.00", "50%", two.id)
    assert news[compare.table]["value"]["data"] == [["seed", "0", "7"]]
    assert len(compare.refreshed("smoke FINISHED")[compare.runs]["value"]["data"]) == 2
    assert [row[-1] for row in compare.refreshed(one.id)[compare.runs]["value"]["data"]] == [one.id]
    assert "at least 2" in compare.compared([one.id], False)[compare.said]
    assert differing({"a": {"x": 1, "y": None}, "b": {"x": 1}}) == []


def test_an_opened_checkpoint_becomes_a_lane_next_to_its_base(form: JobForm, jobs: Jobs) -> None:
    job = finished(jobs, form)
    loaded = LoadedModels(ServerOptions())
    loaded.add(load("nano"), "nano", "bundled")
    worker = Worker(Limits(paint_seconds=0.0))
    tab = TrainingTab(loaded, worker, ServerOptions(), jobs)
    with gr.Blocks():
        tab.build(gr.State(None))
    worker.start()
    try:
        news = tab.open(job.id, "20")
        assert "Opened" in news[tab.watch.said]
        missing = tab.open(job.id, "7")
    finally:
        worker.close()
    lanes = news[tab.opened].lanes
    assert [lane.strategy for lane in lanes] == ["ar", "block_diffusion"]
    assert [lane.model for lane in lanes] == ["nano-ar", "smoke, step 20"]
    assert not (job.folder / "opened" / "step-00000020" / "optimizer.safetensors").exists()
    assert "no checkpoint of step" in missing[tab.watch.said]
    assert tab.opened not in missing


# -- views ---------------------------------------------------------------------------------------------------


def test_the_figures_of_a_running_job_are_not_drawn_at_each_tick(form: JobForm, jobs: Jobs, tmp_path: Path) -> None:
    hold_jobs(tmp_path, 20)
    job = form.submit(*filled())
    try:
        until(lambda: jobs.get(job.id).step == 20)
        until(lambda: jobs.checkpoints(job.id))  # what it writes last before it waits
        clock = [0.0]
        watch = Watch(jobs, clock=lambda: clock[0])
        with gr.Blocks():
            watch.build()
        seen = watch.tick(job.id, None)[watch.seen]
        (job.run / "metrics.jsonl").open("a").write('{"step": 21, "loss_mdm": 1.0, "block_size": 8}\n')
        news = watch.tick(job.id, seen)
        assert watch.head in news
        assert watch.losses not in news
        assert watch.tick(job.id, seen, can_be_seen=False) == gr.skip()
        clock[0] = 40.0
        later = watch.tick(job.id, news[watch.seen])
        assert watch.losses in later
        assert watch.tick(job.id, later[watch.seen]) == gr.skip()
    finally:
        release(tmp_path)


def test_a_run_in_epochs(form: JobForm, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"number {number} " * 20}) + "\n" for number in range(50)))
    values = filled(data=form.access.upload(data)[0], max_steps=None, epochs=1.5, optimisation__packed_length=64)
    asked = form.asked(*values)
    assert asked.recipe().optimisation.epochs == asked.spec().resolved().optimisation.epochs == 1.5
    news = form.described(*values)
    assert "optimisation.epochs=1.5" in news[form.command]
    assert news[form.growth].layout.xaxis.title.text == "Share of the run (%)"
    assert max(news[form.growth].data[0].x) == 100
    assert "steps of" in form.estimated(*values)[form.need]
    refused = form.estimated(*filled(max_steps=None, epochs=1.5))[form.said]
    assert "corpus is generated without an end" in refused


def test_every_setting_of_a_recipe_has_a_field() -> None:
    elsewhere = {"about", "kind", "base", "data.source", "quantization", "lora", "network"}
    elsewhere |= {"optimisation.max_steps", "optimisation.epochs"}  # components of their own
    dumped = set()
    for name in ("smoke", "qwen3-0.6b-lora"):
        recipe = Recipe.read(name)
        assert set(flat(recipe)) >= {f"blocks.{key}" for key in recipe.blocks.model_dump()}
        for section, value in recipe.model_dump().items():
            dumped |= {f"{section}.{key}" for key in value} if isinstance(value, dict) else {section}
    names = {field.name for field in form_fields()}
    missing = {each for each in dumped - names - elsewhere if not any(name.startswith(f"{each}.") for name in names)}
    assert missing == set()


def test_training_is_off_if_other_machines_can_open_the_page() -> None:
    assert ServerOptions().trains
    assert not ServerOptions(host="0.0.0.0", login="a:b").trains
    assert ServerOptions(host="0.0.0.0", login="a:b", training=True).trains
    assert not ServerOptions(training=False).trains
    with pytest.raises(StartError):
        ServerOptions(host="0.0.0.0", training=True)
