"""The form of a new job: preset, base, data and all settings; beside them, the block schedule and the command."""

import shlex
from collections.abc import Sequence
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.event_options import QUEUED, QUIET, SAVE_FILE, Updates
from playground.new_choice import on_new_choice
from playground.options import ServerOptions
from playground.page_words import say
from playground.server.loaded_models import LoadedModels
from playground.training_tab import curves, estimates
from playground.training_tab.access import OWN_DATA, Access
from playground.training_tab.asked import (
    QUANTIZATIONS,
    Asked,
    checked_name,
    form_fields,
    preset_for,
    preset_of,
    shown_values,
)
from playground.training_tab.form_parts import Parts
from playground.training_tab.own_data import OwnData
from playground.training_tab.recipe_choices import (
    ANY_MODEL,
    FIRST,
    RECIPE_LABELS,
    epochs_of,
    order,
    quantization_of,
    steps_of,
)
from playground.training_tab.setting_inputs import setting_inputs
from playground.training_tab.trackers import TrackerTicks, require_trackers
from playground.training_tab.words import refused
from training.jobs import Jobs, TrainingJob
from training.recipe.recipe import Recipe
from training.recipe.recipe_fields import bundled_recipes

PREVIEWED = 3  # documents in the preview


class JobForm:
    """The form's handlers. `build` lays it out in the Blocks being built."""

    def __init__(self, loaded: LoadedModels, options: ServerOptions, jobs: Jobs):
        self.jobs = jobs
        self.options = options
        self.access = Access(loaded, options, jobs)
        self.own_data = OwnData(self.access)
        self.trackers = TrackerTicks()

    # -- layout ------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Lay out the form in the Blocks being built."""
        recipe = preset_of(FIRST)
        with gr.Row(elem_id="job-form"):
            with gr.Column(scale=3, min_width=320):
                self._build_main(recipe)
                with gr.Accordion("All settings", open=False, elem_id="every-setting"):
                    self.parts.values = setting_inputs(recipe)
            with gr.Column(scale=2, min_width=320):
                self._build_actions(recipe)
        self.preview_shown = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="job-preview", visible=False)
        self._wire()

    def _build_main(self, recipe: Recipe) -> None:
        gr.Markdown("### 1 Model", elem_classes="step")
        names = sorted(bundled_recipes(), key=order)
        preset = gr.Dropdown(
            [(RECIPE_LABELS.get(name, name), name) for name in names],
            value=FIRST,
            label="Recipe",
            info=recipe.about,
            elem_id="job-preset",
        )
        base = gr.Dropdown(
            self.access.bases(),
            value=recipe.base,
            label="Base model",
            info="a model of the Models tab, a path in an allowed folder, or a hub id",
            allow_custom_value=True,
            min_width=220,
            elem_id="job-base",
        )
        with gr.Row():
            lora = gr.Checkbox(
                value=recipe.lora is not None,
                label="LoRA",
                info="train adapters instead of all weights",
                min_width=200,
                elem_id="job-lora",
            )
            quantization = gr.Radio(
                list(QUANTIZATIONS),
                value=quantization_of(recipe),
                label="Precision of the base model",
                info="8 bit and 4 bit need LoRA",
                min_width=240,
                elem_id="job-bits",
            )
        gr.Markdown("### 2 Data", elem_classes="step")
        data = self.own_data.build(recipe.data.source)
        # The length and the name belong to the last step, which the other column shows.
        name = gr.Textbox(
            label="Job name", placeholder=FIRST, max_lines=1, min_width=160, elem_id="job-name", render=False
        )
        # gr.Number would show 0 for an empty field, and send it.
        own = {"max_lines": 1, "min_width": 110, "render": False}
        steps = gr.Textbox(steps_of(recipe), label="Steps", placeholder="by epochs", elem_id="job-steps", **own)
        epochs = gr.Textbox(epochs_of(recipe), label="or epochs", placeholder="by steps", elem_id="job-epochs", **own)
        self.parts = Parts(preset, base, data, name, steps, epochs, lora, quantization)

    def _build_actions(self, recipe: Recipe) -> None:
        gr.Markdown("### 3 Check", elem_classes="step")
        with gr.Row():
            self.estimate = gr.Button("Estimate", size="md", min_width=110, elem_id="job-estimate")
            self.preview = gr.Button("Preview data", size="md", min_width=130, elem_id="job-preview-button")
        self.need = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="job-need")
        self.said = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="job-said")
        gr.Markdown("Block size in the run", elem_classes="plot-title")
        self.growth = gr.Plot(_growth(recipe), show_label=False, container=False, elem_id="job-growth")
        gr.Markdown("### 4 Train", elem_classes="step")
        with gr.Row(elem_classes="asking"):
            for part in (self.parts.name, self.parts.max_steps, self.parts.epochs):
                part.render()
        self.trackers.build()
        with gr.Row():
            self.start = gr.Button("Start", size="md", variant="primary", min_width=110, elem_id="job-start")
            self.download = gr.Button("Recipe as YAML", size="md", min_width=150, elem_id="job-recipe")
        self.command = gr.Code(
            # No language: its syntax colours have too little contrast. Wrapped: scrolling would need a mouse.
            "",
            language=None,
            label="Shell command for the same run",
            interactive=False,
            lines=1,
            wrap_lines=True,
            elem_id="job-command",
        )
        self._yaml, self._file_name = gr.Textbox(visible=False), gr.Textbox(visible=False)

    def _wire(self) -> None:
        parts = self.parts
        form = parts.all()
        described = [self.growth, self.command, self.said]
        changes = []
        last = {"trigger_mode": "always_last", **QUIET}  # Gradio drops what is typed before the event before has ended
        # The length is given in one way, so an entry in one field empties the other.
        for used, other in ((parts.max_steps, parts.epochs), (parts.epochs, parts.max_steps)):
            changes.append(used.input(_emptied, used, other, **last).then(self.described, form, described, **last))
        own = (parts.preset, parts.max_steps, parts.epochs, parts.quantization, parts.name)
        edited = [each.input for each in form if each not in own]
        changes.append(gr.on([*edited, parts.quantization.input], self.described, form, described, **last))
        chosen = on_new_choice(
            parts.preset, self.choose, [parts.base, *self.kept], [*form, self.growth, self.said], **QUIET
        )
        changes.append(chosen.then(self.described, form, described, **last))
        needed = [self.need, self.preview_shown]
        for change in changes:
            change.then(self.needed, form, needed, **last)
        parts.name.input(lambda: "", None, self.said, **last)
        ticked = self.trackers.wire(self._field("saving.trackers"), self.said)
        ticked.then(self.described_quietly, form, [self.growth, self.command], **QUIET)
        self.own_data.wire(self._field("data.columns"), self.filled_anew, form, self.following)
        self.estimate.click(self.estimated, form, [self.need, self.said], show_progress_on=self.said, **QUEUED)
        self.preview.click(self.previewed, form, [self.preview_shown, self.said], show_progress_on=self.said, **QUEUED)
        self.download.click(self.as_yaml, form, [self._yaml, self._file_name, self.said], **QUIET).then(
            None, [self._yaml, self._file_name], None, js=SAVE_FILE, api_visibility="private"
        )

    # -- handlers ----------------------------------------------------------------------------------------

    def asked(self, *form: Any) -> Asked:
        """Read the form, with base and data resolved to what the run reads. Raises NBDiffError, one sentence."""
        preset, base, data, _, max_steps, epochs, lora, quantization, *values = form
        asked = Asked.of(preset, None, None, max_steps, epochs, lora, quantization, values)
        recipe = preset_of(asked.preset)
        source = self.access.data(data)
        settings = dict(asked.settings)
        # The recipe's settings for documents that the base writes say nothing about a person's own.
        if source is not None and source not in OWN_DATA:
            settings = {name: value for name, value in settings.items() if not name.startswith("data.self_data.")}
        prompts = settings.get("data.self_data.prompts")
        if prompts and prompts != "corpus":
            settings["data.self_data.prompts"] = self.access.data(prompts)
        return Asked(
            asked.preset,
            self.access.base(base) if recipe.kind == "adapt" else None,
            source,
            asked.max_steps,
            settings,
        )

    def described(self, *form: Any) -> Updates:
        """The block schedule and the command line for the form, or an error in one sentence."""
        try:
            asked = self.asked(*form)
            growth = _growth(asked.recipe())
            command = shlex.join(self.jobs.command(asked.spec()))
        except NBDiffError as error:
            return {
                self.growth: self._growth_only(form),
                self.command: "",
                self.said: refused(error, self.access.uploads),
            }
        return {self.growth: growth, self.command: command, self.said: ""}

    def described_quietly(self, *form: Any) -> Updates:
        """The same, but the sentence beside the buttons stays."""
        return {part: updates for part, updates in self.described(*form).items() if part is not self.said}

    def filled_anew(self, *form: Any) -> Updates:
        """What follows from a form that was filled by the page: schedule, command, estimate, no preview. What is said
        beside the buttons stays."""
        return {**self.described_quietly(*form), **self.needed(*form)}

    def needed_at_first(self, shown: Any, *form: Any) -> Updates:
        """The estimate of the form with which the page opens. shown: the estimate on the page, which stays."""
        return gr.skip() if shown else {self.need: self.needed(*form)[self.need]}

    def choose(self, preset: Any, base: Any = None, data: Any = None, columns: Any = None) -> Updates:
        """Fill the form with the values of a preset. base, data, columns: as they are in the form. Own data stays with
        its columns, and the base stays where the preset names none."""
        try:
            recipe = preset_of(str(preset))
        except NBDiffError as error:
            return {self.said: refused(error, self.access.uploads)}
        return {
            self.parts.preset: gr.update(info=recipe.about),
            self.parts.name: gr.update(placeholder=str(preset)),
            **self._filled(recipe, recipe.base or base, recipe.data.source or data),
            **self._own(data, columns),
            self.growth: _growth(recipe),
            self.said: "",
        }

    def fill(self, recipe: Recipe, preset: str, name: str, base: str | None, data: str | None) -> Updates:
        """Fill the form with the settings of an existing run. base, data: values of the form."""
        preset = preset_for(recipe, preset)
        return {
            self.parts.preset: gr.update(value=preset, info=preset_of(preset).about),
            self.parts.name: gr.update(value=name),
            **self._filled(recipe, base, data),
            **self.own_data.quiet(),
        }

    def fill_for_base(self, base: str, data: Any = None, columns: Any = None) -> Updates:
        """Fill the form for a job that starts from a model, with the first recipe that is made for it. Own data stays
        with its columns."""
        self.access.base(base)  # raises NBDiffError for one that cannot be trained from
        preset = FIRST if preset_of(FIRST).base == base else ANY_MODEL
        recipe = preset_of(preset)
        own = self._own(data, columns)
        has_data = recipe.data.source is not None or own
        next_step = "Start it, or change the data." if has_data else "Choose your data, then Start."
        words = f"The form is filled for this model. {next_step}"
        return {
            self.parts.preset: gr.update(value=preset, info=recipe.about),
            self.parts.name: gr.update(value="", placeholder=preset),
            **self._filled(recipe, base),
            **(own or self.own_data.quiet()),
            self.parts.base: gr.update(choices=self.access.bases(), value=base, interactive=True),
            self.said: say(words),
        }

    @property
    def outputs(self) -> list[Any]:
        """The components that `fill` and `fill_for_base` change."""
        return [*self.parts.all(), self.said, *self.own_data.quiet()]

    @property
    def following(self) -> list[Any]:
        """The components that `filled_anew` changes."""
        return [self.growth, self.command, self.need, self.preview_shown]

    @property
    def kept(self) -> list[Any]:
        """The components with the data and its columns, as `fill_for_base` takes them."""
        return [self.parts.data, self._field("data.columns")]

    def _own(self, data: Any, columns: Any) -> Updates:
        """Own data with its columns, to stay in a form that is filled; {} for a source of the project."""
        is_own = bool(data) and data not in OWN_DATA
        return dict(zip(self.kept, (gr.update(value=data), columns), strict=True)) if is_own else {}

    def _filled(self, recipe: Recipe, base: str | None = None, data: str | None = None) -> Updates:
        parts = self.parts
        return {
            parts.base: gr.update(value=base or recipe.base or None, interactive=recipe.kind == "adapt"),
            parts.data: gr.update(value=data or recipe.data.source),
            parts.max_steps: steps_of(recipe),
            parts.epochs: epochs_of(recipe),
            parts.lora: gr.update(value=recipe.lora is not None),
            parts.quantization: quantization_of(recipe),
            **dict(zip(parts.values, shown_values(recipe), strict=True)),
        }

    def estimated(self, *form: Any) -> Updates:
        """Estimate the memory and time of the run, also if data must be counted for it."""
        try:
            return {self.need: say(estimates.estimated(self.asked(*form).recipe()).in_words()), self.said: ""}
        except NBDiffError as error:
            return {self.need: "", self.said: refused(error, self.access.uploads)}

    def needed(self, *form: Any) -> Updates:
        """The estimate after a change, if it takes no data, no download and no conversion; and no preview, because the
        one there was is of other settings. An error is shown by `described`."""
        hidden = {self.preview_shown: gr.update(value="", visible=False)}
        try:
            return {self.need: say(estimates.at_once(self.asked(*form).recipe())), **hidden}
        except NBDiffError:
            return {self.need: "", **hidden}

    def previewed(self, *form: Any) -> Updates:
        """Show what the run would read: documents, noised copies, and the attention mask."""
        # These import torch and datasets, which is slow; not needed to build the page.
        from playground.training_tab.preview_html import preview_html
        from training.planning.preview_picture import picture

        try:
            shown = preview_html(picture(self.asked(*form).recipe(), PREVIEWED))
        except NBDiffError as error:
            hidden = gr.update(value="", visible=False)
            return {self.preview_shown: hidden, self.said: refused(error, self.access.uploads)}
        return {self.preview_shown: gr.update(value=shown, visible=True), self.said: say("The preview is below.")}

    def as_yaml(self, *form: Any) -> Updates:
        """The complete recipe as YAML, for a file."""
        try:
            asked = self.asked(*form)
            name = checked_name(form[3], asked.preset)
            return {self._yaml: asked.recipe().to_yaml(), self._file_name: f"{name}.yaml", self.said: ""}
        except NBDiffError as error:
            return {self._yaml: "", self._file_name: "", self.said: refused(error, self.access.uploads)}

    def submit(self, *form: Any) -> TrainingJob:
        """Submit the form as a job; returns the job. Raises NBDiffError, one sentence."""
        asked = self.asked(*form)
        name = checked_name(form[3], asked.preset)
        recipe = asked.recipe()
        require_trackers(recipe.saving.trackers)
        self.own_data.require_readable(recipe.data)
        job = self.jobs.submit(asked.spec(), name)
        estimates.save(recipe, job.folder)
        return job

    def bases(self, now: Any) -> Updates:
        """Update the list of bases. now: the selected base, which stays."""
        return {self.parts.base: gr.update(choices=self.access.bases(), value=now)}

    def _field(self, name: str) -> Any:
        """The component of a setting."""
        return self.parts.values[[each.name for each in form_fields()].index(name)]

    def _growth_only(self, form: Sequence[Any]) -> Any:
        """The block schedule without base and data, which may be wrong. If a setting is wrong, the figure stays."""
        try:
            preset, _, _, _, max_steps, epochs, lora, quantization, *values = form
            return _growth(Asked.of(preset, None, None, max_steps, epochs, lora, quantization, values).recipe())
        except NBDiffError:
            return gr.skip()


def _emptied(given: Any) -> Any:
    """Empty the other field of the length, unless this one has just been emptied."""
    return gr.skip() if given is None or given == "" else None


def _growth(recipe: Recipe) -> Any:
    return curves.growth(recipe.blocks if recipe.kind == "adapt" else None, steps_of(recipe))
