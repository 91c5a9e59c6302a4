"""A checkpoint of a job, or its finished model, as one zip file to download."""

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.event_options import QUEUED, Updates
from playground.page_words import bytes_in_words, say
from playground.training_tab.checkpoint_opener import FINAL
from training.errors import RunError
from training.jobs import Jobs


class ZipExport:
    """A button that writes the file, and one that downloads it. `build` lays them out in the Blocks being built."""

    def __init__(self, jobs: Jobs):
        self.jobs = jobs
        self._folder = tempfile.TemporaryDirectory(prefix="nbdiff-zips-")  # deleted when the server stops

    def build(self) -> None:
        """Lay out the buttons; the second one is hidden until there is a file."""
        self.export = gr.Button("Export as zip", min_width=140, scale=1, elem_id="job-zip")
        self.file = gr.DownloadButton("Download", visible=False, min_width=140, scale=1, elem_id="job-zip-file")

    @property
    def outputs(self) -> list[Any]:
        """The components that `offered` changes."""
        return [self.export, self.file]

    def offered(self, possible: bool) -> Updates:
        """The buttons of another job, or of a job with another checkpoint."""
        return {self.export: gr.update(interactive=possible), self.file: gr.update(visible=False)}

    def wire(self, chosen: gr.Textbox, checkpoint: gr.Dropdown, said: gr.HTML) -> None:
        """chosen: the id of the job. checkpoint: a step or FINAL. said: shows how it went."""
        self._shown_in = said
        self.export.click(self.written, [chosen, checkpoint], [self.file, said], show_progress_on=said, **QUEUED)
        checkpoint.input(lambda: gr.update(visible=False), None, self.file, api_visibility="private", queue=False)

    def written(self, job_id: Any, which: Any) -> Iterator[Updates]:
        """Write the file, and offer it."""
        yield {self._shown_in: say("The model is being packed.")}
        try:
            path = self.zip_of(job_id, which)
        except NBDiffError as error:
            yield {self._shown_in: say(str(error), error=True), self.file: gr.update(visible=False)}
            return
        label = f"Download {path.name} ({bytes_in_words(path.stat().st_size)})"
        yield {self._shown_in: say("It is ready."), self.file: gr.update(value=str(path), label=label, visible=True)}

    def zip_of(self, job_id: Any, which: Any) -> Path:
        """The file with the model's folder. Raises NBDiffError, one sentence.

        which: a step or FINAL. Earlier files of this server are deleted: each may have the size of a model.
        """
        from training.run.exporting import export, final_of, newest_or  # imports torch, which is slow

        job = self.jobs.get(str(job_id))
        if which == FINAL:
            folder, step = final_of(job.run), FINAL
        else:
            checkpoint = newest_or(self.jobs.checkpoints(job.id), which)
            folder, step = export(job.run, checkpoint, job.folder / "opened"), f"step-{checkpoint.step}"
        name = f"{''.join(each if each.isalnum() or each in '-_.' else '-' for each in job.name).strip('.')}-{step}"
        target = Path(self._folder.name) / f"{name}.zip"
        try:
            for old in Path(self._folder.name).glob("*.zip"):
                old.unlink()
            # Weights do not get smaller by compression.
            with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
                for path in sorted(folder.rglob("*")):
                    if path.is_file():
                        archive.write(path, Path(name) / path.relative_to(folder))
        except OSError as error:
            raise RunError(f"The file {target.name} cannot be written: {error.strerror or error}.") from error
        return target
