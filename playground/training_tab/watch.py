"""The list of jobs, and a panel with the state, curves, log and settings of the selected one. A timer updates them.

All data comes from the job and the folder of its run, so a reload of the page shows the same. A tick sends only the
parts that have changed.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from nbdiff_engine.model.draft_spec import DRAFT_SPEC
from playground.event_options import QUIET, SAVE_FILE, Updates
from playground.page_words import say
from playground.training_tab import curves, estimates, words
from playground.training_tab.access import uploads_of
from playground.training_tab.checkpoint_opener import FINAL
from playground.training_tab.hub_export import HubExport
from playground.training_tab.metrics_csv import metrics_csv
from playground.training_tab.note_field import Notes
from playground.training_tab.pace import LIVE_SECONDS, redraw_seconds, tick_seconds
from playground.training_tab.probes import Probes
from playground.training_tab.seen import SCALES, Seen, SeenPanel, View, stamp
from playground.training_tab.x_axis import STEP, X_AXES, x_axis
from playground.training_tab.zip_export import ZipExport
from training.jobs import Jobs, TrainingJob, states
from training.jobs.notes import read_note

LOG_LINES = 14  # the newest lines, as many as the box shows
MOST_LISTED = 300
CARD = "README.md"  # of a finished model
_NONE_YET = "There is no job yet. Start one under **New job**."
_STOPPABLE = {states.QUEUED, states.STARTING, states.RUNNING}
_DELETABLE = states.ENDED | {states.QUEUED}
# The id of the job in the fragment of the URL: a reload or a link shows the job again.
KEEP_ADDRESS = """(id) => {
    const url = new URL(location.href);
    url.hash = id ? "job=" + encodeURIComponent(id) : "training";
    history.replaceState(null, "", url);
    return id;
}"""

# The inputs of a tick, with whether the panel can be seen: what cannot be seen is not drawn.
_SEEN = "(...all) => [...all.slice(0, -1), document.getElementById('watch')?.offsetParent != null]"


class Watch:
    """The list and the panel. `build` lays them out; `tick` returns the changes."""

    def __init__(self, jobs: Jobs, clock: Callable[[], float] = time.monotonic, uploads: bool = False):
        """uploads: whether the page uploads models to the hub."""
        self.jobs = jobs
        self.uploads = uploads
        self._uploaded = uploads_of(jobs)
        self._clock = clock
        self.probes = Probes()
        self.notes = Notes(jobs)
        self.zip = ZipExport(jobs)
        self.hub = HubExport(jobs)

    # -- layout ------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Lay it out in the Blocks being built."""
        with gr.Row(elem_id="watch"):
            with gr.Column(scale=1, min_width=280):
                self.none_yet = gr.Markdown(_NONE_YET, visible=True, elem_id="no-jobs")
                self.list = gr.Radio([], label="Jobs, newest first", elem_id="jobs", visible=False)
            with gr.Column(scale=3, min_width=320):
                self.said = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="watch-said")
                with gr.Column(visible=False, elem_id="job") as self.panel:
                    self._build_panel()
        self.seen = gr.State(None)
        self.timer = gr.Timer(LIVE_SECONDS, active=False)
        self.can_be_seen = gr.Checkbox(True, visible=False)
        self._csv, self._file_name = gr.Textbox(visible=False), gr.Textbox(visible=False)
        # The selected id for the handlers. Gradio raises an error for a value that is not in the choices of the list.
        self.chosen = gr.Textbox(visible=False)
        self._wire()

    def _build_panel(self) -> None:
        self.head = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="job-head")
        with gr.Row(elem_classes="job-buttons"):
            self.save = gr.Button("Save now", size="sm", min_width=90, elem_id="job-save")
            self.stop = gr.Button("Stop", variant="stop", size="sm", min_width=80, elem_id="job-stop")
            self.resume = gr.Button("Resume", size="sm", min_width=80, elem_id="job-resume")
            self.duplicate = gr.Button("Duplicate", size="sm", min_width=90, elem_id="job-duplicate")
            self.move_up = gr.Button("Move up", size="sm", min_width=100, elem_id="job-sooner")
            self.move_down = gr.Button("Move down", size="sm", min_width=100, elem_id="job-later")
            self.delete = gr.Button("Delete", size="sm", min_width=80, elem_id="job-delete")
        with gr.Row(visible=False, elem_classes="asking", elem_id="job-sure") as self.confirmation:
            gr.Markdown("This deletes the job, its log and all its checkpoints.")
            self.confirm_delete = gr.Button(
                "Delete permanently", variant="stop", size="sm", min_width=120, elem_id="job-really"
            )
            self.cancel_delete = gr.Button("Cancel", size="sm", min_width=90, elem_id="job-keep")
        with gr.Row(elem_classes="asking"):
            self.checkpoint = gr.Dropdown(
                [],
                label="Checkpoint",
                min_width=200,
                scale=3,
                elem_id="job-checkpoint",
                interactive=True,
                allow_custom_value=True,  # a checkpoint may be deleted meanwhile; then `open` shows an error
            )
            self.open = gr.Button("Open in Decode tab", variant="primary", min_width=170, scale=1, elem_id="job-open")
            self.zip.build()
        self.hub.build(visible=self.uploads)
        self.notes.build()
        with gr.Row(elem_classes="asking", elem_id="job-view"):
            self.x = gr.Radio(list(X_AXES), value=STEP, label="Horizontal axis", min_width=220, elem_id="job-x")
            self.scale = gr.CheckboxGroup(list(SCALES), label="Training loss", min_width=220, elem_id="job-scale")
            self.csv = gr.Button("Metrics as CSV", size="sm", min_width=130, scale=0, elem_id="job-csv")
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown("#### Training loss, and the block size in it")
                self.losses = gr.Plot(show_label=False, container=False, elem_id="job-losses")
            with gr.Column(min_width=320):
                gr.Markdown("#### Held-out documents")
                self.held_out = gr.Plot(show_label=False, container=False, elem_id="job-held-out")
        self.probes.build()
        with gr.Accordion("Learning rate, gradient, memory and GPU", open=False, elem_id="job-machine"), gr.Row():
            with gr.Column(min_width=320):
                self.rate = gr.Plot(show_label=False, container=False, elem_id="job-rate")
            with gr.Column(min_width=320):
                self.memory = gr.Plot(show_label=False, container=False, elem_id="job-memory")
        with gr.Accordion("Log", open=True):
            self.log = gr.Textbox(
                show_label=False,
                container=False,
                lines=LOG_LINES,
                max_lines=LOG_LINES,
                interactive=False,
                elem_id="job-log",
            )
        with gr.Accordion("Settings of this run", open=False):
            self.command = gr.Code("", language=None, label="Command", interactive=False, lines=1, wrap_lines=True)
            self.settings = gr.Code("", language=None, label="recipe.yaml", interactive=False, wrap_lines=True)
        with gr.Accordion("Model card", open=False, visible=False, elem_id="job-card") as self.card_box:
            self.card = gr.Code("", language=None, label=CARD, interactive=False, wrap_lines=True)

    @property
    def outputs(self) -> list[Any]:
        """The components that `tick` changes."""
        return [
            self.seen,
            self.timer,
            self.list,
            self.none_yet,
            self.panel,
            self.head,
            self.save,
            self.stop,
            self.resume,
            self.move_up,
            self.move_down,
            self.delete,
            self.checkpoint,
            self.open,
            self.hub.ask,
            self.losses,
            self.rate,
            self.memory,
            self.held_out,
            self.log,
            self.command,
            self.settings,
            self.card_box,
            self.card,
            self.notes.text,
            *self.zip.outputs,
            *self.probes.outputs,
        ]

    @property
    def inputs(self) -> list[Any]:
        """The inputs of `tick`."""
        return [self.chosen, self.seen, self.x, self.scale, self.can_be_seen]

    def _wire(self) -> None:
        def on_click(button: gr.Button, act: Callable[[str], object]) -> None:
            button.click(self._acted(act), self.chosen, [self.said, self.confirmation], **QUIET).then(
                self.tick, self.inputs, self.outputs, **QUIET
            )

        on_click(self.save, self.jobs.save_now)
        on_click(self.stop, self.jobs.stop)
        on_click(self.resume, self.jobs.resume)
        on_click(self.move_up, lambda job_id: self._move(job_id, -1))
        on_click(self.move_down, lambda job_id: self._move(job_id, +1))
        on_click(self.confirm_delete, self.jobs.delete)
        self.delete.click(lambda: {self.confirmation: gr.update(visible=True)}, None, self.confirmation, **QUIET)
        self.cancel_delete.click(lambda: self._said(""), None, [self.said, self.confirmation], **QUIET)
        self.list.change(None, self.list, self.chosen, js=KEEP_ADDRESS, api_visibility="private").then(
            self.tick, self.inputs, self.outputs, **QUIET
        )
        self.list.input(lambda: self._said(""), None, [self.said, self.confirmation], **QUIET)
        gr.on([self.x.input, self.scale.input], self.tick, self.inputs, self.outputs, **QUIET)
        self.timer.tick(self.tick, self.inputs, self.outputs, js=_SEEN, **QUIET)
        self.csv.click(self.as_csv, self.chosen, [self._csv, self._file_name, self.said], **QUIET).then(
            None, [self._csv, self._file_name], None, js=SAVE_FILE, api_visibility="private"
        )
        self.probes.wire()
        self.notes.wire(self.chosen, self.said)
        self.zip.wire(self.chosen, self.checkpoint, self.said)
        self.hub.wire(self.chosen, self.checkpoint, self.said)

    # -- requests of visitors ----------------------------------------------------------------------------

    def _acted(self, act: Callable[[str], object]) -> Callable[[Any], Updates]:
        """A handler that calls `act` with the id of the selected job, shows its error, and hides the confirmation."""

        def handler(job_id: Any) -> Updates:
            try:
                act(self.jobs.get(str(job_id)).id)
            except NBDiffError as error:
                return self._said(say(str(error), error=True))
            return self._said("")

        return handler

    def as_csv(self, job_id: Any) -> Updates:
        """The metrics of the selected job as CSV, for a file."""
        try:
            job = self.jobs.get(str(job_id))
            text = metrics_csv(self.jobs.metrics(job.id))
        except NBDiffError as error:
            return {self._csv: "", self._file_name: "", self.said: say(str(error), error=True)}
        said = "" if text else say("There are no metrics yet.")
        return {self._csv: text, self._file_name: f"{job.name}.csv", self.said: said}

    def _said(self, sentence: str) -> Updates:
        """Show a sentence above the panel and hide the confirmation of Delete."""
        return {self.said: sentence, self.confirmation: gr.update(visible=False)}

    def _move(self, job_id: str, by: int) -> None:
        place = self.jobs.get(job_id).queue_place
        if place is not None:
            self.jobs.move(job_id, max(1, place + by))

    # -- updates -----------------------------------------------------------------------------------------

    def tick(self, chosen: Any, seen: Seen | None, x: Any = STEP, scale: Any = (), can_be_seen: Any = True) -> Updates:
        """The changes since `seen`, for `outputs`; none while the panel cannot be seen."""
        if not can_be_seen:
            return gr.skip()
        jobs = self.jobs.list()[:MOST_LISTED]
        job = next((job for job in jobs if job.id == chosen), None)
        view = View.of(x, scale)
        before = seen.panel if seen and seen.panel and job and seen.panel.job == job.id else None
        panel = None if job is None else self._panel_state(job, jobs, view, before)
        listed = tuple((words.choice(each, self._uploaded), each.id) for each in jobs)
        now = Seen(listed, tick_seconds(jobs), gone=job is None and bool(chosen), panel=panel)
        if now == seen:
            return gr.skip()
        updates: Updates = {self.seen: now}
        if seen is None or seen.pause != now.pause:
            updates[self.timer] = gr.update(value=now.pause)
        if seen is None or (now.listed, now.gone) != (seen.listed, seen.gone):
            # The visitor may have selected another job since this tick was sent: reset only a job that is gone.
            changed = {"value": None} if now.gone else {}
            if jobs and not chosen and seen is None:  # a page that has just opened shows the newest job
                changed = {"value": jobs[0].id}
            updates[self.list] = gr.update(choices=list(listed), visible=bool(listed), **changed)
            updates[self.none_yet] = gr.update(visible=not listed)
        if job is None:
            return updates | {self.panel: gr.update(visible=False)}
        if before is None:
            updates[self.panel] = gr.update(visible=True)
        return updates | self._panel_changes(job, before, panel, view)

    def _panel_state(
        self, job: TrainingJob, jobs: Sequence[TrainingJob], view: View, before: SeenPanel | None
    ) -> SeenPanel:
        metrics = stamp(job.run / "metrics.jsonl")
        estimate = stamp(job.folder / estimates.FILE)
        drawn, wanted = self._clock(), (metrics, view, job.state in states.LIVE)
        if before is not None and before.curves[1:] == wanted[1:] and drawn - before.drawn < redraw_seconds(job):
            drawn, wanted = before.drawn, before.curves
        elif before is not None and before.curves == wanted:
            drawn = before.drawn
        return SeenPanel(
            job=job.id,
            head=(metrics, estimate, job.state, job.reason, job.step, job.max_steps),
            curves=wanted,
            drawn=drawn,
            buttons=(job.state, job.queue_place, sum(each.state == states.QUEUED for each in jobs)),
            checkpoints=self._checkpoints(job),
            held_out=(stamp(job.run / "evaluations.jsonl"), view.x),
            log=self.jobs.log_tail(job.id, LOG_LINES),
            settings=stamp(job.run / "recipe.yaml"),
            card=stamp(job.run / FINAL / CARD),
            probes=stamp(job.run / "probes.jsonl"),
            note=read_note(job.folder),
        )

    def _panel_changes(self, job: TrainingJob, before: SeenPanel | None, now: SeenPanel, view: View) -> Updates:
        def new(part: str) -> bool:
            return before is None or getattr(before, part) != getattr(now, part)

        updates: Updates = {}
        if new("head"):
            metrics, estimated = self.jobs.newest_metrics(job.id), estimates.load(job.folder)
            updates[self.head] = words.head(job, metrics, estimated, self._uploaded)
        if new("curves") or new("held_out"):
            metrics = self.jobs.metrics(job.id)
            along = x_axis(view.x, metrics)
        if new("curves"):
            updates[self.losses] = curves.losses(metrics, view.log, along, view.smooth)
            updates[self.rate] = curves.rate(metrics, along)
            updates[self.memory] = curves.memory(metrics, along)
        if new("held_out"):
            updates[self.held_out] = curves.held_out(self.jobs.evaluations(job.id), metrics, along)
        if new("buttons"):
            updates |= self._buttons(*now.buttons)
        if new("checkpoints"):
            first = now.checkpoints[0][1] if now.checkpoints else None
            updates[self.checkpoint] = gr.update(choices=list(now.checkpoints), value=first)
            updates |= self.zip.offered(possible=bool(now.checkpoints))
            updates |= {each: gr.update(interactive=bool(now.checkpoints)) for each in (self.open, self.hub.ask)}
        if new("log"):
            updates[self.log] = now.log
        if new("settings"):
            updates[self.command] = self._command(job)
            updates[self.settings] = _text(job.run / "recipe.yaml")
        if new("card"):
            card = _text(job.run / FINAL / CARD)
            updates |= {self.card: card, self.card_box: gr.update(visible=bool(card))}
        if new("note"):
            updates[self.notes.text] = now.note
        if new("probes"):
            updates |= self.probes.updates(self.jobs.probes(job.id))
        return updates

    def _buttons(self, state: str, place: int | None, waiting: int) -> Updates:
        """Enable the buttons that are valid in this state. place: in the queue, from 1. waiting: jobs in the queue."""
        shown = place is not None and waiting > 1
        return {
            self.save: gr.update(interactive=state == states.RUNNING),
            self.stop: gr.update(interactive=state in _STOPPABLE),
            self.resume: gr.update(interactive=state in states.RESUMABLE),
            self.move_up: gr.update(visible=shown, interactive=shown and place > 1),
            self.move_down: gr.update(visible=shown, interactive=shown and place < waiting),
            self.delete: gr.update(interactive=state in _DELETABLE),
        }

    def _checkpoints(self, job: TrainingJob) -> tuple[tuple[str, str], ...]:
        """The checkpoints that can be opened: (label, value)."""
        is_final = any((job.run / "final" / name).is_file() for name in ("config.json", DRAFT_SPEC))
        final = [("Final model", FINAL)] if is_final else []
        steps = [each.step for each in reversed(self.jobs.checkpoints(job.id))]
        return (*final, *((f"Step {step:,}", str(step)) for step in steps))

    def _command(self, job: TrainingJob) -> str:
        try:
            return shlex.join(self.jobs.command(job.id))
        except NBDiffError as error:
            return f"# {error}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
