"""The Training tab: start training jobs, watch them, compare their runs."""

from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.event_options import QUEUED, QUIET, Updates
from playground.options import ServerOptions
from playground.page_words import say
from playground.server.loaded_models import LoadedModels
from playground.server.worker import Worker
from playground.training_tab import hub_export
from playground.training_tab.asked import LONGEST_NAME
from playground.training_tab.checkpoint_opener import CheckpointOpener
from playground.training_tab.compare import Compare
from playground.training_tab.form import JobForm
from playground.training_tab.watch import KEEP_ADDRESS, Watch
from playground.training_tab.words import choice, refused
from training.jobs import Jobs, TrainingJob
from training.recipe.recipe import Recipe

NEW, WATCH, COMPARE = "new-job", "watch", "compare"
_READ_ADDRESS = """() => {
    const found = /^#job=(.+)$/.exec(location.hash);
    return [found ? decodeURIComponent(found[1]) : location.hash === "#training" ? "-" : ""];
}"""
# Gradio also selects a tab when the page opens; the fragment of the URL must stay then.
_LEAVE = """() => {
    if (navigator.userActivation && !navigator.userActivation.hasBeenActive) return;
    if (!/^#(job=|training$)/.test(location.hash)) return;
    history.replaceState(null, "", location.pathname + location.search);
}"""


class TrainingTab:
    """`build` lays it out in the Blocks being built; `wire` registers the events that need other tabs."""

    def __init__(self, loaded: LoadedModels, worker: Worker, options: ServerOptions, jobs: Jobs):
        self.jobs = jobs
        self.form = JobForm(loaded, options, jobs)
        self.watch = Watch(jobs, uploads=hub_export.allowed(options))
        self.compare = Compare(jobs)
        self.opening = CheckpointOpener(loaded, worker, jobs)

    def build(self, opened: gr.State) -> None:
        """opened: set to an OpenedCheckpoint when the visitor opens a checkpoint."""
        self.opened = opened
        with gr.Tabs(elem_id="training-tabs") as self.tabs:
            with gr.Tab("New job", id=NEW):
                self.form.build()
            with gr.Tab("Jobs", id=WATCH) as self.watch_tab:
                self.watch.build()
            with gr.Tab("Compare", id=COMPARE) as self.compare_tab:
                self.compare.build()
        self.timer = self.watch.timer
        self._wire_jobs()

    def _wire_jobs(self) -> None:
        form, watch = self.form, self.watch
        form.start.click(
            self.start,
            form.parts.all(),
            [form.said, watch.list, watch.chosen, self.tabs, watch.said],
            show_progress_on=form.said,
            **QUEUED,
        ).then(watch.tick, watch.inputs, watch.outputs, **QUIET)
        watch.duplicate.click(self.duplicate, watch.chosen, [*form.outputs, self.tabs, watch.said], **QUIET).then(
            form.described, form.parts.all(), [form.growth, form.command, form.said], **QUIET
        ).then(form.needed, form.parts.all(), [form.need, form.preview_shown], **QUIET)
        watch.open.click(
            self.open,
            [watch.chosen, watch.checkpoint],
            [self.opened, watch.said],
            show_progress_on=watch.said,
            **QUEUED,
        )

    def wire(self, blocks: gr.Blocks, tabs: gr.Tabs, own: gr.Tab, others: list[gr.Tab]) -> None:
        """Update the jobs while the tab is shown, and select the tab if the fragment of the URL names it or a job.

        tabs: all tabs of the page. own: this tab. others: the rest.
        """
        form, watch = self.form, self.watch
        self.outer_tabs = tabs
        own.select(None, watch.chosen, None, js=KEEP_ADDRESS, api_visibility="private")
        own.select(self._entered, form.parts.base, [self.timer, form.parts.base], **QUIET).then(
            watch.tick, watch.inputs, watch.outputs, **QUIET
        ).then(form.needed_at_first, [form.need, *form.parts.all()], form.need, **QUIET)
        for other in others:
            other.select(lambda: {self.timer: gr.Timer(active=False)}, None, self.timer, **QUIET)
            other.select(None, None, None, js=_LEAVE, api_visibility="private")
        self.watch_tab.select(watch.tick, watch.inputs, watch.outputs, **QUIET)
        self.compare_tab.select(self.compare.refreshed, self.compare.search, self.compare.lists, **QUIET)
        address = gr.Textbox(visible=False)
        blocks.load(
            self.restored, address, [tabs, self.tabs, watch.list, watch.chosen, self.timer], js=_READ_ADDRESS, **QUIET
        ).then(watch.tick, watch.inputs, watch.outputs, **QUIET)
        blocks.load(form.described, form.parts.all(), [form.growth, form.command, form.said], **QUIET)

    # -- handlers ----------------------------------------------------------------------------------------

    def start(self, *form: Any) -> Updates:
        """Start a job and show it, or show an error in one sentence."""
        form_said, watch = self.form.said, self.watch
        try:
            job = self.form.submit(*form)
        except NBDiffError as error:
            return {form_said: refused(error, self.form.access.uploads)}
        return {
            form_said: "",
            watch.list: self._listed(job.id),
            watch.chosen: job.id,
            self.tabs: gr.update(selected=WATCH),
            watch.said: "",
        }

    def duplicate(self, job_id: Any) -> Updates:
        """Fill the form with the settings of a job."""
        try:
            job = self.jobs.get(str(job_id))
            recipe = recipe_of(job)
            # The form names jobs and uploads by their ids, not by their paths.
            base, data = self.form.access.named(recipe.base), self.form.access.named(recipe.data.source)
            filled = self.form.fill(recipe, job.spec.recipe, f"{job.name} copy"[:LONGEST_NAME], base, data)
        except NBDiffError as error:
            return {self.watch.said: refused(error)}
        return {**filled, self.tabs: gr.update(selected=NEW), self.watch.said: ""}

    def adapt(self, base: str, *kept: Any) -> Updates:
        """Fill the form for a job that starts from a model. base: its value in the form. kept: of `form.kept`."""
        try:
            filled = self.form.fill_for_base(base, *kept)
        except NBDiffError as error:
            return {self.form.said: refused(error), self.tabs: gr.update(selected=NEW)}
        return {**filled, self.tabs: gr.update(selected=NEW)}

    def open(self, job_id: Any, which: Any) -> Updates:
        """Open a checkpoint in the Decode tab."""
        try:
            opened = self.opening.open(job_id, which)
        except NBDiffError as error:
            return {self.watch.said: refused(error)}
        return {self.opened: opened, self.watch.said: say("Opened in the Decode tab.")}

    def restored(self, address: Any) -> Updates:
        """When the page opens: show the job that the URL names. address: its id, "-" for the tab alone, or empty."""
        text = address if isinstance(address, str) else ""
        if not text:
            return {self.watch.list: gr.update(choices=self._choices())}
        known = any(job.id == text for job in self.jobs.list())
        job_id = text if known else None
        return {
            self.outer_tabs: gr.update(selected="training"),
            self.watch.list: self._listed(job_id),
            self.watch.chosen: job_id,
            self.timer: gr.Timer(active=True),
            **({self.tabs: gr.update(selected=WATCH)} if known else {}),
        }

    def _entered(self, base: Any) -> Updates:
        return {self.timer: gr.Timer(active=True), **self.form.bases(base)}

    def _listed(self, job_id: str | None) -> Any:
        choices = self._choices()
        return gr.update(choices=choices, value=job_id, visible=bool(choices))

    def _choices(self) -> list[tuple[str, str]]:
        return [(choice(job, self.form.access.uploads), job.id) for job in self.jobs.list()]


def recipe_of(job: TrainingJob) -> Recipe:
    """The recipe of a job: that of its run, or of its folder before the run has started, or of its spec."""
    for folder in (job.run, job.folder):
        if (folder / "recipe.yaml").is_file():
            return Recipe.read(str(folder / "recipe.yaml"))
    return job.spec.resolved()
