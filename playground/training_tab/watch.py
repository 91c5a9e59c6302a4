"""Watching jobs: the list, and of the chosen one its state, curves, log and settings, brought up to date by a timer.

Everything shown is read from the job and from its run's folder, never from the form or from the page, so that a
reload shows the same. A tick sends only what has changed since the last one.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.training_tab import curves, estimates, words
from playground.training_tab.events import QUIET, News
from playground.training_tab.opening import FINAL
from playground.training_tab.probes import Probes
from training.jobs import Jobs, TrainingJob, states

TICK_SECONDS = 1.0
LOG_LINES = 14  # as many as the box shows: the newest are what is looked for
MOST_LISTED = 300
_NONE_YET = "There is no job yet. Start one under **New job**."
_STOPPABLE = {states.QUEUED, states.STARTING, states.RUNNING}
_DELETABLE = states.ENDED | {states.QUEUED}
# The job's place in the address: what a reload, or a link, shows again.
KEEP_ADDRESS = """(id) => {
    const url = new URL(location.href);
    url.hash = id ? "job=" + encodeURIComponent(id) : "training";
    history.replaceState(null, "", url);
    return id;
}"""


Stamp = tuple[int, int] | None  # time and size of a file


@dataclass(frozen=True, slots=True)
class SeenPanel:
    """The panel as a page shows it, part by part, told by what each part is made from."""

    job: str
    head: tuple[Any, ...]
    curves: tuple[Any, ...]
    buttons: tuple[Any, ...]
    checkpoints: tuple[tuple[str, str], ...]
    held_out: Stamp
    log: str
    settings: Stamp
    probes: Stamp


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page has been sent; a tick sends what differs. gone: the chosen job is not there any more."""

    listed: tuple[tuple[str, str], ...]
    gone: bool
    panel: SeenPanel | None


class Watch:
    """The list and the panel. `build` lays them out; `tick` says what has changed."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self.probes = Probes()

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
        # The list's value as handlers read it: Gradio refuses one that the list has just lost, or not got yet.
        self.chosen = gr.Textbox(visible=False)
        self._wire()

    def _build_panel(self) -> None:
        self.head = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="job-head")
        with gr.Row(elem_classes="job-buttons"):
            self.save = gr.Button("Save now", size="sm", min_width=90, elem_id="job-save")
            self.stop = gr.Button("Stop", variant="stop", size="sm", min_width=80, elem_id="job-stop")
            self.resume = gr.Button("Resume", size="sm", min_width=80, elem_id="job-resume")
            self.duplicate = gr.Button("Duplicate", size="sm", min_width=90, elem_id="job-duplicate")
            self.sooner = gr.Button("Sooner", size="sm", min_width=80, elem_id="job-sooner")
            self.later = gr.Button("Later", size="sm", min_width=80, elem_id="job-later")
            self.delete = gr.Button("Delete", size="sm", min_width=80, elem_id="job-delete")
        with gr.Row(visible=False, elem_classes="asking", elem_id="job-sure") as self.sure:
            gr.Markdown("This removes the job, its log and all of its checkpoints.")
            self.really = gr.Button("Delete for good", variant="stop", size="sm", min_width=120, elem_id="job-really")
            self.rather_not = gr.Button("Keep it", size="sm", min_width=90, elem_id="job-keep")
        with gr.Row(elem_classes="asking"):
            self.checkpoint = gr.Dropdown(
                [],
                label="Checkpoint",
                min_width=200,
                scale=3,
                elem_id="job-checkpoint",
                interactive=True,
                allow_custom_value=True,  # one that has been replaced meanwhile is refused in a sentence of ours
            )
            self.open = gr.Button("Open in playground", variant="primary", min_width=170, scale=1, elem_id="job-open")
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown("#### Loss of each step")
                self.losses = gr.Plot(show_label=False, container=False, elem_id="job-losses")
                self.log_scale = gr.Checkbox(
                    label="Logarithmic", container=False, min_width=120, elem_id="job-log-scale"
                )
            with gr.Column(min_width=320):
                gr.Markdown("#### Held-out loss for every block size")
                self.held_out = gr.Plot(show_label=False, container=False, elem_id="job-held-out")
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown("#### Block size")
                self.block_size = gr.Plot(show_label=False, container=False, elem_id="job-block-size")
            with gr.Column(min_width=320):
                gr.Markdown("#### Learning rate")
                self.rate = gr.Plot(show_label=False, container=False, elem_id="job-rate")
        self.probes.build()
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

    @property
    def outputs(self) -> list[Any]:
        """What a tick writes to."""
        return [
            self.seen,
            self.list,
            self.none_yet,
            self.panel,
            self.head,
            self.save,
            self.stop,
            self.resume,
            self.sooner,
            self.later,
            self.delete,
            self.checkpoint,
            self.losses,
            self.block_size,
            self.rate,
            self.held_out,
            self.log,
            self.command,
            self.settings,
            *self.probes.outputs,
        ]

    @property
    def inputs(self) -> list[Any]:
        """What a tick reads."""
        return [self.chosen, self.seen, self.log_scale]

    def _wire(self) -> None:
        def acting(button: gr.Button, act: Callable[[str], object]) -> None:
            button.click(self._acted(act), self.chosen, [self.said, self.sure], **QUIET).then(
                self.tick, self.inputs, self.outputs, **QUIET
            )

        acting(self.save, self.jobs.save_now)
        acting(self.stop, self.jobs.stop)
        acting(self.resume, self.jobs.resume)
        acting(self.sooner, lambda identity: self._move(identity, -1))
        acting(self.later, lambda identity: self._move(identity, +1))
        acting(self.really, self.jobs.delete)
        self.delete.click(lambda: {self.sure: gr.update(visible=True)}, None, self.sure, **QUIET)
        self.rather_not.click(lambda: self._said(""), None, [self.said, self.sure], **QUIET)
        self.list.change(None, self.list, self.chosen, js=KEEP_ADDRESS, api_visibility="private").then(
            self.tick, self.inputs, self.outputs, **QUIET
        )
        self.list.input(lambda: self._said(""), None, [self.said, self.sure], **QUIET)
        self.log_scale.input(self.tick, self.inputs, self.outputs, **QUIET)
        self.probes.wire()

    # -- what a visitor asks -----------------------------------------------------------------------------

    def _acted(self, act: Callable[[str], object]) -> Callable[[Any], News]:
        """A handler that does something to the chosen job; the sentence of a refusal, and the question gone."""

        def handler(identity: Any) -> News:
            try:
                act(self.jobs.get(str(identity)).id)
            except NBDiffError as error:
                return self._said(words.say(str(error), error=True))
            return self._said("")

        return handler

    def _said(self, sentence: str) -> News:
        """A sentence above the panel, and no question whether to delete."""
        return {self.said: sentence, self.sure: gr.update(visible=False)}

    def _move(self, identity: str, by: int) -> None:
        place = self.jobs.get(identity).queue_place
        if place is not None:
            self.jobs.move(identity, max(1, place + by))

    # -- what has changed --------------------------------------------------------------------------------

    def tick(self, chosen: Any, seen: Seen | None, log_scale: Any) -> News:
        """What differs from `seen`, for `outputs`."""
        jobs = self.jobs.list()[:MOST_LISTED]
        job = next((job for job in jobs if job.id == chosen), None)
        panel = None if job is None else self._look(job, jobs, bool(log_scale))
        listed = tuple((words.choice(each), each.id) for each in jobs)
        now = Seen(listed, gone=job is None and bool(chosen), panel=panel)
        if now == seen:
            return gr.skip()
        news: News = {self.seen: now}
        if seen is None or (now.listed, now.gone) != (seen.listed, seen.gone):
            # A choice that was made after this tick was sent must stand: only what is gone is taken back.
            changed = {"value": None} if now.gone else {}
            if jobs and not chosen and seen is None:  # a page that has just come here sees the newest
                changed = {"value": jobs[0].id}
            news[self.list] = gr.update(choices=list(listed), visible=bool(listed), **changed)
            news[self.none_yet] = gr.update(visible=not listed)
        if job is None:
            return news | {self.panel: gr.update(visible=False)}
        before = seen.panel if seen and seen.panel and seen.panel.job == job.id else None
        if before is None:
            news[self.panel] = gr.update(visible=True)
        return news | self._panel_news(job, before, panel, bool(log_scale))

    def _look(self, job: TrainingJob, jobs: Sequence[TrainingJob], log_scale: bool) -> SeenPanel:
        metrics = _stamp(job.run / "metrics.jsonl")
        estimate = _stamp(job.folder / estimates.FILE)
        return SeenPanel(
            job=job.id,
            head=(metrics, estimate, job.state, job.reason, job.step, job.max_steps),
            curves=(metrics, log_scale),
            buttons=(job.state, job.queue_place, sum(each.state == states.QUEUED for each in jobs)),
            checkpoints=self._checkpoints(job),
            held_out=_stamp(job.run / "evaluations.jsonl"),
            log=self.jobs.log_tail(job.id, LOG_LINES),
            settings=_stamp(job.run / "recipe.yaml"),
            probes=_stamp(job.run / "probes.jsonl"),
        )

    def _panel_news(self, job: TrainingJob, before: SeenPanel | None, now: SeenPanel, log_scale: bool) -> News:
        def new(part: str) -> bool:
            return before is None or getattr(before, part) != getattr(now, part)

        news: News = {}
        metrics = self.jobs.metrics(job.id) if new("curves") or new("head") else []
        if new("head"):
            news[self.head] = words.head(job, metrics, estimates.kept(job.folder))
        if new("curves"):
            news[self.losses] = curves.losses(metrics, log_scale)
            news[self.block_size] = curves.block_size(metrics)
            news[self.rate] = curves.rate(metrics)
        if new("buttons"):
            news |= self._buttons(*now.buttons)
        if new("checkpoints"):
            first = now.checkpoints[0][1] if now.checkpoints else None
            news[self.checkpoint] = gr.update(choices=list(now.checkpoints), value=first)
        if new("held_out"):
            news[self.held_out] = curves.held_out(self.jobs.evaluations(job.id))
        if new("log"):
            news[self.log] = now.log
        if new("settings"):
            news[self.command] = self._command(job)
            news[self.settings] = _text(job.run / "recipe.yaml")
        if new("probes"):
            news |= self.probes.news(self.jobs.probes(job.id))
        return news

    def _buttons(self, state: str, place: int | None, waiting: int) -> News:
        """Those that a job in this state takes. place: in the queue of so many that are waiting."""
        shown = place is not None and waiting > 1
        return {
            self.save: gr.update(interactive=state == states.RUNNING),
            self.stop: gr.update(interactive=state in _STOPPABLE),
            self.resume: gr.update(interactive=state in states.RESUMABLE),
            self.sooner: gr.update(visible=shown, interactive=shown and place > 1),
            self.later: gr.update(visible=shown, interactive=shown and place < waiting),
            self.delete: gr.update(interactive=state in _DELETABLE),
        }

    def _checkpoints(self, job: TrainingJob) -> tuple[tuple[str, str], ...]:
        """The checkpoints that can be opened, in words and as they are named."""
        final = [("Finished model", FINAL)] if (job.run / "final" / "config.json").is_file() else []
        steps = [each.step for each in reversed(self.jobs.checkpoints(job.id))]
        return (*final, *((f"Step {step:,}", str(step)) for step in steps))

    def _command(self, job: TrainingJob) -> str:
        try:
            return shlex.join(self.jobs.command(job.id))
        except NBDiffError as error:
            return f"# {error}"


def _stamp(path: Path) -> Stamp:
    """What tells whether a file has changed."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
