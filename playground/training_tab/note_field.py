"""The note of a run: a text that is kept with the job, and shown and searched in the comparison."""

from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.event_options import QUIET, Updates
from playground.page_words import say
from training.jobs import Jobs
from training.jobs.notes import read_note


class Notes:
    """The field of the selected job. `build` lays it out in the Blocks being built."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs

    def build(self) -> None:
        """Lay out the field."""
        self.text = gr.Textbox(
            label="Notes",
            placeholder="what this run is for, what came out; Compare shows and searches it",
            lines=1,
            max_lines=8,
            elem_id="job-note",
        )

    def wire(self, chosen: gr.Textbox, said: gr.HTML) -> None:
        """Keep the text when the visitor leaves the field. chosen: the id of the job. said: shows an error."""
        self._shown_in = said
        gr.on([self.text.blur, self.text.submit], self.keep, [chosen, self.text], said, **QUIET)

    def keep(self, job_id: Any, text: Any) -> Updates:
        """Keep the text with a job."""
        try:
            job = self.jobs.get(str(job_id))
            if read_note(job.folder) == str(text or "").strip():
                return gr.skip()
            self.jobs.set_note(job.id, str(text or ""))
        except NBDiffError as error:
            return {self._shown_in: say(str(error), error=True)}
        return {self._shown_in: say("The note is kept.")}
