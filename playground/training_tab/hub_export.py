"""The upload of a job's model to the hub, where the operator allows it. What would leave is shown, and asked, first."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.event_options import QUEUED, QUIET, Updates
from playground.options import ServerOptions
from playground.page_words import say
from playground.training_tab.checkpoint_opener import FINAL
from playground.training_tab.words import refused
from training.jobs import Jobs
from training.sharing.hub_upload import Upload, planned, send


def allowed(options: ServerOptions) -> bool:
    """Whether the page uploads: with --hub, for the person at this machine, because the token is that person's."""
    return options.hub and options.is_local


class HubExport:
    """The name of a repository, and an upload in two steps. `build` lays it out in the Blocks being built."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self._folder = tempfile.TemporaryDirectory(prefix="nbdiff-uploads-")  # deleted when the server stops

    def build(self, visible: bool) -> None:
        """Lay it out. visible: see `allowed`."""
        with gr.Row(visible=visible, elem_classes="asking", elem_id="job-hub"):
            self.repo = gr.Textbox(
                label="Upload to the hub as", placeholder="you/my-model", max_lines=1, min_width=200, scale=3
            )
            self.public = gr.Checkbox(label="Anyone can read it", min_width=170, scale=1)
            self.ask = gr.Button("Upload…", min_width=120, scale=1)
        with gr.Row(visible=False, elem_classes="asking", elem_id="job-hub-sure") as self.confirmation:
            self.plan = gr.HTML("", js_on_load=None, apply_default_css=False)
            self.sure = gr.Button("Upload now", variant="primary", size="sm", min_width=120)
            self.cancel = gr.Button("Cancel", size="sm", min_width=90)
        self.waiting = gr.State(None)  # the Upload that was shown

    def wire(self, chosen: gr.Textbox, checkpoint: gr.Dropdown, said: gr.HTML) -> None:
        """chosen: the id of the job. checkpoint: a step or FINAL. said: shows how it went."""
        self._said = said
        outputs = [said, self.plan, self.confirmation, self.waiting]
        self.ask.click(
            self.asked, [chosen, checkpoint, self.repo, self.public], outputs, show_progress_on=said, **QUEUED
        )
        self.sure.click(self.sent, self.waiting, outputs, show_progress_on=said, **QUEUED)
        gr.on(
            [self.cancel.click, chosen.change, checkpoint.input],
            lambda: {self.confirmation: gr.update(visible=False), self.waiting: None},
            None,
            [self.confirmation, self.waiting],
            **QUIET,
        )

    def asked(self, job_id: Any, which: Any, repo: Any, public: Any) -> Iterator[Updates]:
        """Write the export, and show what would be uploaded. Nothing is sent."""
        hidden = {self.confirmation: gr.update(visible=False), self.waiting: None}
        yield {self._said: say("The export is being written and checked."), **hidden}
        try:
            upload = self.export(job_id, which, repo, public is True)
        except NBDiffError as error:
            yield {self._said: refused(error), **hidden}
            return
        yield {
            self._said: "",
            self.plan: say(f"This uploads {upload}."),
            self.confirmation: gr.update(visible=True),
            self.waiting: upload,
        }

    def export(self, job_id: Any, which: Any, repo: Any, public: bool) -> Upload:
        """The export of a checkpoint in a folder, and where it would go. Raises NBDiffError, one sentence."""
        from training.sharing.export_source import find_source
        from training.sharing.exports import Options, write_export  # imports torch, which is slow

        job = self.jobs.get(str(job_id))
        name = repo.strip() if isinstance(repo, str) else None
        planned(name, Path(self._folder.name), not public)  # refused before anything is written
        source = find_source(str(job.run), None if which == FINAL else _step(which))
        form = "adapter" if source.kind == "draft" else "hf"
        done = write_export(source, form, Path(self._folder.name), Options(leaves=True))
        return planned(name, done.folder, not public)

    def sent(self, upload: Upload | None) -> Iterator[Updates]:
        """Upload what was shown."""
        hidden = {self.confirmation: gr.update(visible=False), self.waiting: None}
        if upload is None:
            yield hidden
            return
        yield {self._said: say(f"{upload.repo} is being uploaded."), **hidden}
        try:
            words = say(f"Uploaded: {send(upload)}")
        except NBDiffError as error:
            words = refused(error)
        yield {self._said: words}


def _step(which: Any) -> int | None:
    """The step of a checkpoint in the list; None, the newest one, if nothing is chosen."""
    text = str(which or "")
    return int(text) if text.isdecimal() else None
