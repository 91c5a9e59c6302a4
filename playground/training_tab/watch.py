"""Watching jobs: the list, and of the chosen one its state, curves, log and settings, brought up to date by a timer.

Everything shown is read from the job and from its run's folder, never from the form or from the page, so that a
reload shows the same. A tick sends only what has changed since the last one.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.training_tab import curves, estimates, words
from playground.training_tab.form import ASKED
from playground.training_tab.probes import Probes

TICK_SECONDS = 1.0
LOG_LINES = 14  # as many as the box shows: the newest are what is looked for
MOST_LISTED = 300
NEWEST, FINAL = "newest", "final"
_NONE_YET = "There is no job yet. Start one under **New job**."
_RUNNING = ("starting", "running")
_OVER = ("stopped", "failed", "lost")
_DELETABLE = ("queued", "stopped", "failed", "lost", "finished")
# The job's place in the address: what a reload, or a link, shows again.
KEEP_ADDRESS = """(id) => {
    const url = new URL(location.href);
    url.hash = id ? "job=" + encodeURIComponent(id) : "training";
    history.replaceState(null, "", url);
    return id;
}"""


class Watch:
    """The list and the panel. `build` lays them out; `tick` says what has changed."""

    def __init__(self, jobs: Any):
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
        self.seen = gr.State({})
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
        def acting(button: gr.Button, act: Any) -> None:
            button.click(self._acted(act), self.chosen, [self.said, self.sure], **ASKED).then(
                self.tick, self.inputs, self.outputs, **ASKED
            )

        acting(self.save, self.jobs.save_now)
        acting(self.stop, self.jobs.stop)
        acting(self.resume, self.jobs.resume)
        acting(self.sooner, lambda identity: self._move(identity, -1))
        acting(self.later, lambda identity: self._move(identity, +1))
        acting(self.really, self.jobs.delete)
        self.delete.click(lambda: gr.update(visible=True), None, self.sure, **ASKED)
        self.rather_not.click(lambda: gr.update(visible=False), None, self.sure, **ASKED)
        self.list.change(None, self.list, self.chosen, js=KEEP_ADDRESS, api_visibility="private").then(
            self.tick, self.inputs, self.outputs, **ASKED
        )
        self.list.input(lambda: ("", gr.update(visible=False)), None, [self.said, self.sure], **ASKED)
        self.log_scale.input(self.tick, self.inputs, self.outputs, **ASKED)
        self.probes.wire()

    # -- what a visitor asks -----------------------------------------------------------------------------

    def _acted(self, act: Any) -> Any:
        """A handler that does something to the chosen job; the sentence of a refusal, and the question gone."""

        def handler(identity: Any) -> tuple[str, Any]:
            try:
                act(self.jobs.get(str(identity)).id)
            except NBDiffError as error:
                return words.say(str(error), error=True), gr.update(visible=False)
            return "", gr.update(visible=False)

        return handler

    def _move(self, identity: str, by: int) -> None:
        place = self.jobs.get(identity).queue_place
        if place is not None:
            self.jobs.move(identity, max(1, place + by))

    # -- what has changed --------------------------------------------------------------------------------

    def tick(self, chosen: Any, seen: Any, log_scale: Any) -> list[Any]:
        """News for `outputs`."""
        jobs = self.jobs.list()[:MOST_LISTED]
        listed = [(words.choice(job), job.id) for job in jobs]
        job = next((job for job in jobs if job.id == chosen), None)
        before = seen if isinstance(seen, dict) and job is not None and seen.get("job") == job.id else {}
        listed_before = seen.get("list") if isinstance(seen, dict) else None
        now: dict[str, Any] = {"job": job.id if job else None, "list": [listed, job is None and bool(chosen)]}
        if now["list"] == listed_before:
            news = [gr.skip(), gr.skip()]
        else:
            # A choice that was made after this tick was sent must stand: only what is gone is taken back.
            changed = {"value": None} if job is None and chosen else {}
            if jobs and not chosen and listed_before is None:  # a page that has just come here sees the newest
                changed = {"value": jobs[0].id}
            news = [gr.update(choices=listed, visible=bool(listed), **changed), gr.update(visible=not listed)]
        if job is None:
            if seen == now:
                return [gr.skip()] * len(self.outputs)
            rest = len(self.outputs) - 4
            return [now, *news, gr.update(visible=False), *[gr.skip()] * rest]
        panel = gr.skip() if before else gr.update(visible=True)
        parts = self._parts(job, jobs, before, now, bool(log_scale))
        return [now, *news, panel, *parts]

    def _parts(self, job: Any, jobs: Sequence[Any], before: dict, now: dict, log_scale: bool) -> list[Any]:
        run = Path(job.run)
        measured = _stamp(run / "metrics.jsonl")
        now["metrics"] = (measured, log_scale)
        now["head"] = (
            measured,
            _stamp(Path(job.folder) / estimates.FILE),
            job.state,
            job.reason,
            job.step,
            job.max_steps,
        )
        curves_new = before.get("metrics") != now["metrics"]
        head_new = before.get("head") != now["head"]
        metrics = self.jobs.metrics(job.id) if curves_new or head_new else []
        news: list[Any] = [words.head(job, metrics, estimates.kept(Path(job.folder))) if head_new else gr.skip()]
        waiting = sum(each.state == "queued" for each in jobs)
        now["buttons"] = [job.state, job.queue_place, waiting]
        news += self._buttons(job, waiting) if before.get("buttons") != now["buttons"] else [gr.skip()] * 6
        steps = self._checkpoints(job)
        now["checkpoints"] = steps
        news.append(
            gr.update(choices=steps, value=steps[0][1] if steps else None)
            if before.get("checkpoints") != steps
            else gr.skip()
        )
        if curves_new:
            news += [curves.losses(metrics, log_scale), curves.block_size(metrics), curves.rate(metrics)]
        else:
            news += [gr.skip()] * 3
        now["held_out"] = _stamp(run / "evaluations.jsonl")
        new = before.get("held_out", "") != now["held_out"]
        news.append(curves.held_out(self.jobs.evaluations(job.id)) if new else gr.skip())
        now["log"] = self.jobs.log_tail(job.id, LOG_LINES)
        news.append(now["log"] if before.get("log") != now["log"] else gr.skip())
        now["settings"] = _stamp(run / "recipe.yaml")
        if before.get("settings", "") != now["settings"]:
            news += [_command(self.jobs, job), _recipe_text(run)]
        else:
            news += [gr.skip()] * 2
        now["probes"] = _stamp(run / "probes.jsonl")
        new = before.get("probes", "") != now["probes"]
        return [*news, *(self.probes.read(run) if new else [gr.skip()] * len(self.probes.outputs))]

    def _buttons(self, job: Any, waiting: int) -> list[Any]:
        """Save, stop, resume, sooner, later, delete: those that a job in this state takes."""
        place = job.queue_place
        shown = place is not None and waiting > 1
        return [
            gr.update(interactive=job.state == "running"),
            gr.update(interactive=job.state in (*_RUNNING, "queued")),
            gr.update(interactive=job.state in _OVER),
            gr.update(visible=shown, interactive=shown and place > 1),
            gr.update(visible=shown, interactive=shown and place < waiting),
            gr.update(interactive=job.state in _DELETABLE),
        ]

    def _checkpoints(self, job: Any) -> list[tuple[str, str]]:
        """The checkpoints that can be opened, in words and as they are named."""
        found = [(f"Step {each.step:,}", str(each.step)) for each in reversed(self.jobs.checkpoints(job.id))]
        if (Path(job.run) / "final" / "config.json").is_file():
            found.insert(0, ("Finished model", FINAL))
        return found


def _stamp(path: Path) -> tuple[int, int] | None:
    """What tells whether a file has changed."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


def _recipe_text(run: Path) -> str:
    try:
        return (run / "recipe.yaml").read_text(encoding="utf-8")
    except OSError:
        return ""


def _command(jobs: Any, job: Any) -> str:
    try:
        return shlex.join(map(str, jobs.command(job.id)))
    except NBDiffError as error:
        return f"# {error}"
