"""Data of a job: a source of the project, an upload, a path. What it holds is said as soon as it is chosen."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError, SettingError
from playground.event_options import QUEUED, QUIET, Updates
from playground.new_choice import on_new_choice
from playground.page_words import say
from playground.training_tab.access import OWN_DATA, UPLOADS, Access
from playground.training_tab.fields import to_yaml
from playground.training_tab.words import refused
from training.data.data_settings import DataSettings

NO_ANSWER = ""  # the choice for data without a column of answers


class OwnData:
    """The field for the data, the upload button, and two lists for columns without usual names."""

    def __init__(self, access: Access):
        self.access = access

    def build(self, source: str | None) -> gr.Dropdown:
        """Lay it out in the Blocks being built. Returns the field."""
        with gr.Row(elem_classes="asking"):
            self.data = gr.Dropdown(
                _choices(),
                value=source,
                label="Data",
                info="an upload, the corpus, a path in an allowed folder, or a hub id",
                allow_custom_value=True,
                min_width=220,
                scale=3,
                elem_id="job-data",
            )
            self.upload = gr.UploadButton(
                "Upload", file_types=list(UPLOADS), size="md", min_width=110, scale=1, elem_id="job-upload"
            )
        self.said = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="data-said")
        with gr.Row(visible=False, elem_id="data-columns") as self.columns:
            lists = {"interactive": True, "allow_custom_value": True, "min_width": 180}
            self.prompt = gr.Dropdown([], label="Column with the prompt, or the text", elem_id="data-prompt", **lists)
            self.answer = gr.Dropdown([], label="Column with the answer", elem_id="data-answer", **lists)
        return self.data

    def wire(
        self, columns: Any, described: Callable[..., Updates], form: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """columns: the form's field for data.columns. described, form, outputs: what follows each change."""
        self.field = columns
        looked = [self.data, self.said, self.columns, self.prompt, self.answer, columns]
        # By default Gradio drops an event that comes before the one before it has ended.
        slow = {"show_progress_on": self.said, "trigger_mode": "always_last", **QUEUED}
        self.upload.upload(self.uploaded, self.upload, looked, **slow).then(described, form, outputs, **QUIET)
        looked_at = on_new_choice(self.data, self.look, [], [each for each in looked if each is not self.data], **slow)
        looked_at.then(described, form, outputs, **QUIET)
        pair = [self.prompt, self.answer]
        gr.on(
            [self.prompt.input, self.answer.input], self.choose, [self.data, *pair], [columns, self.said], **slow
        ).then(described, form, outputs, **QUIET)

    def quiet(self) -> Updates:
        """Nothing is said of the data, and no columns are asked for."""
        return {self.said: "", self.columns: gr.update(visible=False)}

    # -- handlers ----------------------------------------------------------------------------------------

    def uploaded(self, path: Any) -> Updates:
        """Store an uploaded file, select it as the data, and say what it holds."""
        if not path:
            return gr.skip()
        try:
            value, name = self.access.upload(path)
        except (NBDiffError, OSError) as error:
            return {self.said: refused(error, self.access.uploads)}
        choices = [*_choices(), (f"{name} (uploaded)", value)]
        return {**self.look(value), self.data: gr.update(choices=choices, value=value)}

    def look(self, data: Any) -> Updates:
        """Say what the chosen data holds, and ask for its columns if they have no usual names."""
        hidden = {**self.quiet(), self.field: to_yaml({})}
        try:
            source = self.access.data(data)
            if source is None or source in OWN_DATA or not Path(source).exists():
                return hidden
            found = _first_look(DataSettings.of(source=source))
        except NBDiffError as error:
            return {**hidden, self.said: refused(error, self.access.uploads)}
        words = say(f"{Path(source).name}: {found}")
        if found.format is not None:
            return {**hidden, self.said: words}
        names = list(found.columns)
        answers = [("none: the text alone", NO_ANSWER), *((name, name) for name in names)]
        return {
            self.said: words,
            self.columns: gr.update(visible=True),
            self.prompt: gr.update(choices=names, value=None),
            self.answer: gr.update(choices=answers, value=NO_ANSWER),
            self.field: to_yaml({}),
        }

    def choose(self, data: Any, prompt: Any, answer: Any) -> Updates:
        """Read the chosen columns."""
        if not prompt:
            return {self.said: say("Choose the column with the prompt, or with the text.")}
        columns = {"prompt": prompt, "completion": answer} if answer else {"text": prompt}
        try:
            source = self.access.data(data)
            if source is None:
                raise SettingError("There is no data; upload a file first.")
            found = _first_look(DataSettings.of(source=source, columns=columns))
        except NBDiffError as error:
            return {self.said: refused(error, self.access.uploads)}
        return {self.field: to_yaml(columns), self.said: say(f"{Path(source).name}: {found}")}

    def require_readable(self, data: DataSettings) -> None:
        """Raise NBDiffError, one sentence, for an upload that a run could not read."""
        if data.source is None or not Path(data.source).is_relative_to(self.access.uploads):
            return
        found = _first_look(data)
        if found.format is None:
            raise SettingError(f"{Path(data.source).name}: {found}")


def _first_look(data: DataSettings) -> Any:
    from training.data.first_look import first_look  # imports datasets, which is slow; not needed for the page

    return first_look(data)


def _choices() -> list[tuple[str, str]]:
    return [(words, name) for name, words in OWN_DATA.items()]
