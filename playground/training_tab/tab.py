"""The training tab: a form to start jobs, a place to watch them, and one to compare them."""

from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.options import ServerOptions
from playground.server.loaded_models import LoadedModels
from playground.server.worker import Worker
from playground.training_tab.compare import Compare
from playground.training_tab.form import ASKED, QUEUED, JobForm
from playground.training_tab.opening import Opening
from playground.training_tab.watch import KEEP_ADDRESS, TICK_SECONDS, Watch
from playground.training_tab.words import choice, say
from training.recipe.recipe import Recipe

NEW, WATCH, COMPARE = "new-job", "watch", "compare"
_READ_ADDRESS = """() => {
    const found = /^#job=(.+)$/.exec(location.hash);
    return [found ? decodeURIComponent(found[1]) : location.hash === "#training" ? "-" : ""];
}"""
# A page that opens selects its first tab by itself, and must not lose its address by that.
_LEAVE = """() => {
    if (navigator.userActivation && !navigator.userActivation.hasBeenActive) return;
    if (!/^#(job=|training$)/.test(location.hash)) return;
    history.replaceState(null, "", location.pathname + location.search);
}"""


class TrainingTab:
    """`build` lays it out in the Blocks being built, `wire` ties it to the tabs that it is one of."""

    def __init__(self, shelf: LoadedModels, worker: Worker, options: ServerOptions, jobs: Any):
        """jobs: a training.jobs.Jobs."""
        self.jobs = jobs
        self.form = JobForm(shelf, options, jobs)
        self.watch = Watch(jobs)
        self.compare = Compare(jobs)
        self.opening = Opening(shelf, worker, jobs)

    def build(self, blocks: gr.Blocks, open_in_playground: gr.State) -> None:
        """open_in_playground: gets {"lanes": [...], "serial": ...} when a checkpoint is to be raced."""
        with gr.Tabs(elem_id="training-tabs") as self.tabs:
            with gr.Tab("New job", id=NEW):
                self.form.build()
            with gr.Tab("Jobs", id=WATCH):
                self.watch.build()
            with gr.Tab("Compare", id=COMPARE):
                self.compare.build()
        self.timer = gr.Timer(TICK_SECONDS, active=False)
        self.timer.tick(self.watch.tick, self.watch.inputs, self.watch.outputs, **ASKED)
        self._wire_jobs(open_in_playground)

    def _wire_jobs(self, open_in_playground: gr.State) -> None:
        form, watch = self.form, self.watch
        form.start.click(
            self.start,
            form.parts.all(),
            [form.said, watch.list, watch.chosen, self.tabs, watch.said],
            show_progress_on=form.said,
            **QUEUED,
        ).then(watch.tick, watch.inputs, watch.outputs, **ASKED)
        watch.duplicate.click(self.duplicate, watch.chosen, [*form.parts.all(), self.tabs, watch.said], **ASKED).then(
            form.described, form.parts.all(), [form.growth, form.command, form.said], **ASKED
        )
        watch.open.click(
            self.opening.open,
            [watch.chosen, watch.checkpoint],
            [open_in_playground, watch.said],
            show_progress_on=watch.said,
            **QUEUED,
        )

    def wire(self, blocks: gr.Blocks, tabs: gr.Tabs, own: gr.Tab, others: list[gr.Tab]) -> None:
        """Look at the jobs while the tab is shown, and show it at once where the page's address says so."""
        form, watch = self.form, self.watch
        own.select(None, watch.chosen, None, js=KEEP_ADDRESS, api_visibility="private")
        own.select(self._entered, form.parts.base, [self.timer, form.parts.base, self.compare.chosen], **ASKED).then(
            watch.tick, watch.inputs, watch.outputs, **ASKED
        )
        for other in others:
            other.select(lambda: gr.Timer(active=False), None, self.timer, **ASKED)
            other.select(None, None, None, js=_LEAVE, api_visibility="private")
        self.tabs.select(self.compare.choices, None, self.compare.chosen, **ASKED)
        address = gr.Textbox(visible=False)
        blocks.load(
            self.restored, address, [tabs, self.tabs, watch.list, watch.chosen, self.timer], js=_READ_ADDRESS, **ASKED
        ).then(watch.tick, watch.inputs, watch.outputs, **ASKED)
        blocks.load(form.described, form.parts.all(), [form.growth, form.command, form.said], **ASKED)

    # -- handlers ----------------------------------------------------------------------------------------

    def start(self, *form: Any) -> tuple[Any, ...]:
        """Start a job and turn to it, or say in one sentence why not."""
        try:
            job = self.form.submit(*form)
        except NBDiffError as error:
            return say(str(error), error=True), *[gr.skip()] * 4
        return "", self._chosen(job.id), job.id, gr.update(selected=WATCH), ""

    def duplicate(self, identity: Any) -> list[Any]:
        """The form with the settings of a job's run."""
        parts = len(self.form.parts.all())
        try:
            job = self.jobs.get(str(identity))
            recipe = recipe_of(job)
            filled = self.form.fill(recipe, str(job.spec.recipe), f"{job.name} again"[:80], *self._names(job, recipe))
        except NBDiffError as error:
            return [*[gr.skip()] * parts, gr.skip(), say(str(error), error=True)]
        return [*filled, gr.update(selected=NEW), ""]

    def _names(self, job: Any, recipe: Recipe) -> tuple[str | None, str]:
        """Base and data of a run as the form names them: by the ids that the server made, not by their paths."""
        return self.form.access.named(recipe.base), self.form.access.named(recipe.data.source)

    def restored(self, address: Any) -> tuple[Any, ...]:
        """The job that the page's address names, on a page that has just been opened."""
        text = address if isinstance(address, str) else ""
        if not text:
            return gr.skip(), gr.skip(), gr.update(choices=self._listed()), gr.skip(), gr.skip()
        known = any(job.id == text for job in self.jobs.list())
        inner = gr.update(selected=WATCH) if known else gr.skip()
        identity = text if known else None
        return gr.update(selected="training"), inner, self._chosen(identity), identity, gr.Timer(active=True)

    def _entered(self, base: Any) -> tuple[Any, ...]:
        return gr.Timer(active=True), self.form.bases(base), self.compare.choices()

    def _chosen(self, identity: str | None) -> Any:
        listed = self._listed()
        return gr.update(choices=listed, value=identity, visible=bool(listed))

    def _listed(self) -> list[tuple[str, str]]:
        return [(choice(job), job.id) for job in self.jobs.list()]


def recipe_of(job: Any) -> Recipe:
    """The settings that a job runs with, or will: its run's own, else those that it was submitted with."""
    for folder in (job.run, job.folder):
        path = Path(folder) / "recipe.yaml"
        if path.is_file():
            return Recipe.read(str(path))
    return job.spec.resolved()
