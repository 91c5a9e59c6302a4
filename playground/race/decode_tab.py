"""The Decode tab: the prompt, the lanes, Run and Stop, and the stage that shows the lanes."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from nbdiff_engine.decoding.prompts import require_words
from playground.event_options import QUIET
from playground.new_choice import on_new_choice
from playground.options import ServerOptions
from playground.page_words import in_page_words
from playground.race import conversation, lanes_editor
from playground.race import stage as race_stage
from playground.race.as_code import ADDRESS, as_client, as_curl, as_python
from playground.race.conversation import KeptTurn
from playground.race.decode_figures import DecodeFigures
from playground.race.forks import check_fork
from playground.race.frames import race_of
from playground.race.imported_race import check_race
from playground.race.kept_form import KEEP_FORM, READ_OPENING, kept_form
from playground.race.lanes import CheckedRun, check, check_limits
from playground.race.lanes_editor import EditorValue
from playground.race.opening_choice import OpeningChoice
from playground.race.openings import MAX_NEW_TOKENS, Opening, openings
from playground.race.race_file import Race
from playground.race.recorded_race import recorded_race
from playground.race.run_spec import LaneSpec, RunSpec
from playground.race.stage import refused, shown_on_stage, stage_message
from playground.race.verdict import summary
from playground.server.lane_models import LaneModels
from playground.server.remote_models import RemoteModels
from playground.server.transport import transport
from playground.server.worker import QueueFullError, Worker

_PROMPTS = 1000  # of how many runs the prompt is known
RAW, IGNORE_EOS, KEEP = SWITCHES = ("No chat template", "Ignore end-of-text", "Chat: keep turns")

_SHOW_LINK = """(link) => {
    if (!link) return link;
    const url = new URL(location.href);
    url.hash = "run=" + link;
    history.replaceState(null, "", url);
    navigator.clipboard?.writeText(url.href).catch(() => {});
    return url.href;
}"""
_COPY_CODE = f"""(code) => {{
    const own = code.replaceAll("{ADDRESS}", location.origin + location.pathname.replace(/\\/$/, ""));
    if (own) navigator.clipboard?.writeText(own).catch(() => {{}});
    return own;
}}"""


class DecodeTab:
    """The tab's handlers around the worker and the loaded models. `build` lays it out in the Blocks being built."""

    def __init__(self, loaded: LaneModels, worker: Worker, options: ServerOptions):
        self.loaded = loaded
        self.worker = worker
        self.options = options
        self.opening = OpeningChoice(openings(loaded))
        self._prompts: dict[str, str] = {}  # of the last runs, by run

    # -- layout ------------------------------------------------------------------------------------------

    def build(self, blocks: gr.Blocks) -> gr.HTML:
        """Lay out the tab in `blocks`. Returns the lane form; other tabs change its list of models."""
        recorded = recorded_race(self.opening.first.model)
        self.opening.build_choice()
        with gr.Row(elem_id="decode"):
            with gr.Column(min_width=280, elem_id="ask"):
                self._build_form()
            with gr.Column(min_width=280, elem_id="show"):
                self.stage = race_stage.build(
                    stage_message(race=recorded, recorded=True),
                    transport(self.worker, self.loaded.coming),
                    self.loaded.why_no_forks,
                )
        self.on_stage = gr.State(recorded)  # the race whose figures are shown; a fork adds a lane to it
        self.figures = DecodeFigures(self.on_stage)
        self.newest = gr.State("")  # the run that this page has started last
        self._wire(blocks)
        return self.editor

    def _build_form(self) -> None:
        """Lay out what a visitor asks for."""
        options = self.options
        self.chat = conversation.build()
        self.prompt = gr.Textbox(
            label="Prompt",
            value=self.opening.first.examples[0].prompt,
            lines=3,
            max_lines=10,
            placeholder="Write a prompt. Shift + Enter runs it.",
        )
        self.opening.build_examples(self.prompt)
        with gr.Row(elem_id="act"):
            self.run_button = gr.Button("Run", variant="primary", min_width=80, elem_id="run")
            self.stop_button = gr.Button("Stop", variant="stop", interactive=False, min_width=80, elem_id="stop")
        with gr.Row(elem_id="share"):
            self.link_button = gr.Button("Copy link", min_width=70, size="sm")
            models = self.loaded
            in_python = partial(as_client, models) if isinstance(models, RemoteModels) else as_python
            self.code_buttons = {
                in_python: gr.Button("Copy as Python", min_width=70, size="sm"),
                as_curl: gr.Button("Copy as curl", min_width=70, size="sm"),
            }
        self.code = gr.Textbox(
            label="This run as code", visible=False, interactive=False, lines=6, buttons=["copy"], elem_id="code"
        )
        self.address = gr.Textbox(
            label="Link to this run", visible=False, interactive=False, buttons=["copy"], elem_id="link"
        )
        self.opening.build_presets()
        self.limit = gr.Number(min(MAX_NEW_TOKENS, options.max_new_tokens), label="Max new tokens")
        self.switches = gr.CheckboxGroup(
            list(SWITCHES), show_label=False, container=False, label="Switches", elem_id="switches"
        )
        self.editor = lanes_editor.build(self.loaded, options, self.opening.first.lanes)

    def _wire(self, blocks: gr.Blocks) -> None:
        stage, chat, address = self.stage, self.chat, self.address
        form = [self.prompt, self.editor, self.limit, self.switches, chat.turns]
        gr.on(
            [self.run_button.click, self.prompt.submit],
            self.start,
            [stage, *form],
            [stage, self.stop_button, self.newest],
            **QUIET,
        )
        self.stop_button.click(self.stop, stage, None, **QUIET)
        opening = self.opening
        on_new_choice(opening.preset, self.choose, [opening.model], [self.editor], **QUIET)
        # By default Gradio drops an event that comes before the one before it has ended.
        self.editor.edited(
            self.lanes_edited, [opening.model, self.editor], opening.preset, trigger_mode="always_last", **QUIET
        )
        filled = [self.prompt, self.editor, self.limit, *opening.outputs, stage, self.on_stage]
        opened = opening.model.input(self.open_on, [opening.model, self.prompt], [*filled, self.stop_button], **QUIET)
        ended = stage.ended(
            self.ended,
            [stage, self.on_stage, self.newest, self.switches, chat.turns, self.prompt],
            [self.stop_button, self.on_stage, *chat.outputs, self.prompt],
            trigger_mode="multiple",
            **QUIET,
        )
        gr.on(
            [self.prompt.change, self.limit.change, self.switches.change],
            None,
            [self.prompt, self.limit, self.switches],
            None,
            js=KEEP_FORM,
            api_visibility="private",
        )
        stage.resumed(self.resumed, None, [self.stop_button, self.newest], **QUIET)
        stage.fork(self.fork, stage, [stage, self.stop_button, self.newest], **QUIET)
        picked = chat.list.picked(self.show_turn, chat.turns, [stage, self.on_stage, *chat.outputs], **QUIET)
        chat.clear.click(lambda: chat.shown([]), None, chat.outputs, **QUIET)
        imported = stage.imported(self.imported, stage, [stage, self.on_stage], **QUIET)
        self.figures.follow(opened, ended, picked, imported)
        self.link_button.click(self.link, [stage, *form], [stage, address], **QUIET).then(
            None, address, address, js=_SHOW_LINK, api_visibility="private"
        )
        for written, button in self.code_buttons.items():
            button.click(partial(self.as_code, written), [stage, *form], [stage, self.code], **QUIET).then(
                None, self.code, self.code, js=_COPY_CODE, api_visibility="private"
            )
        self.opened = gr.State(False)  # whether a link opened this page
        blocks.load(
            self.restore,
            address,
            [*filled, self.switches, self.opened],
            js=READ_OPENING,
            **QUIET,
        ).then(self.start_opened, [self.opened, stage, *form], [stage, self.stop_button, self.newest], **QUIET)

    def opens(self, asked: gr.State, tabs: gr.Tabs) -> None:
        """When another tab asks for a prompt with lanes, fill the form, show this tab and run.

        asked: has the fields prompt, lanes, max_new_tokens.
        """
        filled = [self.prompt, self.editor, self.limit, self.switches, tabs, *self.opening.outputs]
        form = [self.stage, self.prompt, self.editor, self.limit, self.switches, self.chat.turns]
        asked.change(partial(self.fill, tabs), asked, filled, **QUIET).then(
            lambda asked, *form: gr.skip() if asked is None else self.start(*form),
            [asked, *form],
            [self.stage, self.stop_button, self.newest],
            **QUIET,
        )

    # -- requests of visitors ----------------------------------------------------------------------------

    def start(self, shown: Any, prompt: Any, *fields: Any) -> dict[Any, Any]:
        """Put a run into the queue. After an error, which is shown in one sentence, the run on the stage continues."""
        try:
            request = check(self.loaded, _spec(prompt, *fields), self.options)
            return self._submit(request, prompt, title=prompt)
        except (NBDiffError, QueueFullError) as error:
            return {self.stage: refused(shown, error)}

    def fork(self, shown: Any, event: gr.EventData) -> dict[Any, Any]:
        """Continue a changed trace in a new lane beside those on the stage."""
        stage = shown_on_stage(shown)
        try:
            data = dict(event._data)
            request = check_fork(self.loaded, data, self.options)
            keep = data.get("lanes")
            keep = keep if isinstance(keep, int) and 0 <= keep < 200 else stage.keep + len(stage.lanes)
            return self._submit(request, self._prompts.get(stage.run or "", ""), keep=keep)
        except (NBDiffError, QueueFullError, TypeError, ValueError) as error:
            return {self.stage: refused(shown, error)}

    def _submit(self, run: CheckedRun, prompt: str, title: str = "", keep: int = 0) -> dict[Any, Any]:
        run_id = self.worker.submit(run.parts, summary)
        self._prompts[run_id] = prompt
        while len(self._prompts) > _PROMPTS:
            del self._prompts[next(iter(self._prompts))]
        value = stage_message(run=run_id, lanes=run.titles, note=run.note, title=title, keep=keep)
        return {self.stage: value, self.stop_button: gr.update(interactive=True), self.newest: run_id}

    def stop(self, shown: Any) -> None:
        """Stop the run on the stage."""
        if (run_id := shown_on_stage(shown).run) is not None:
            self.worker.stop(run_id)

    def ended(
        self, shown: Any, before: Race | None, newest: str, switches: Any, so_far: list[KeptTurn], typed: Any
    ) -> dict[Any, Any]:
        """A run has ended: keep its race and its turn, and disable Stop, unless a new run has started."""
        stage = shown_on_stage(shown)
        stop = {self.stop_button: gr.update(interactive=self.worker.is_live(newest))}
        if stage.run is None or self.worker.is_live(stage.run):  # without a run, the race was loaded, not decoded
            return stop
        prompt = self._prompts.get(stage.run, "")
        done = race_of(self.worker.log(stage.run), prompt)
        if stage.keep and before is not None:  # a fork: it belongs to the turn that is on the stage
            return {**stop, self.on_stage: dataclasses.replace(done, lanes=(*before.lanes[: stage.keep], *done.lanes))}
        if KEEP not in _on(switches):
            return {**stop, self.on_stage: done, **self.chat.shown(so_far, chosen=-1)}
        if typed == prompt:  # the next turn has another prompt; one that is being typed stays
            stop[self.prompt] = ""
        return {**stop, self.on_stage: done, **self.chat.shown(conversation.added(so_far, prompt, done))}

    def resumed(self, event: gr.EventData) -> dict[Any, Any]:
        """A page was loaded again during a run."""
        data = event._data if isinstance(event._data, dict) else {}
        run = data.get("run") if isinstance(data.get("run"), str) else ""
        return {self.stop_button: gr.update(interactive=self.worker.is_live(run)), self.newest: run}

    def imported(self, shown: Any, event: gr.EventData) -> dict[Any, Any]:
        """Keep a race that the page has read from a file."""
        try:
            read = check_race((event._data or {}).get("race"))
        except (NBDiffError, AttributeError) as error:
            return {self.stage: refused(shown, error)}
        return {self.on_stage: read}

    def fill(self, tabs: gr.Tabs, asked: Any) -> Any:
        """Fill the form with what another tab asks for, and show this tab."""
        if asked is None:
            return gr.skip()
        return {
            self.prompt: asked.prompt,
            self.editor: self._edited(asked.lanes, chosen=True),
            self.limit: asked.max_new_tokens,
            self.switches: [],
            tabs: gr.update(selected="decode"),
            **self.opening.of_filled(asked.lanes, self.loaded),
        }

    def choose(self, name: str, model: Any) -> dict[Any, Any]:
        """Fill the lane form from a preset of the model that is on stage."""
        lanes = self.opening.get(model).presets.get(name)
        return gr.skip() if lanes is None else {self.editor: self._edited(lanes, chosen=True)}

    def lanes_edited(self, model: Any, editor: Any) -> Any:
        """The lanes were edited: they are those of another preset, or of none."""
        try:
            lanes = RunSpec.of(prompt="", lanes=lanes_editor.lanes_of(editor)).lanes
        except NBDiffError:  # shown when the visitor runs it
            lanes = ()
        return self.opening.preset_of(self.opening.get(model), lanes)

    def open_on(self, model: Any, typed: Any) -> dict[Any, Any]:
        """Show the recorded race of another model, its lanes, and its examples; keep a prompt that was typed."""
        opening = self.opening.get(model)
        return {
            **self.opening.shown(opening, opening.lanes),
            self.prompt: self.opening.prompt_after(typed, opening),
            self.editor: self._edited(opening.lanes, chosen=True),
            self.limit: min(MAX_NEW_TOKENS, self.options.max_new_tokens),
            self.stop_button: gr.update(interactive=False),
            **self._recorded(opening),
        }

    def _recorded(self, opening: Opening) -> dict[Any, Any]:
        """The recorded race of a model on the stage."""
        race = recorded_race(opening.model)
        return {self.stage: stage_message(race=race, recorded=True), self.on_stage: race}

    def show_turn(self, so_far: list[KeptTurn], event: gr.EventData) -> Any:
        """Show the race of an earlier turn on the stage."""
        chosen = (event._data or {}).get("turn") if isinstance(event._data, dict) else None
        if not isinstance(chosen, int) or not 0 <= chosen < len(so_far):
            return gr.skip()
        race = so_far[chosen].race
        return {self.stage: stage_message(race=race), self.on_stage: race, **self.chat.shown(so_far, chosen)}

    def _edited(self, lanes: Sequence[LaneSpec], chosen: bool = False) -> dict[str, Any]:
        return EditorValue.of(self.loaded, self.options, lanes, chosen).to_json()

    # -- links -------------------------------------------------------------------------------------------

    def link(self, shown: Any, *fields: Any) -> dict[Any, Any]:
        """Show the form as a link."""
        try:
            return {self.address: gr.update(value=self._runnable(*fields).to_link(), visible=True)}
        except NBDiffError as error:
            return {self.stage: refused(shown, error), self.address: gr.update(value="", visible=False)}

    def as_code(self, written: Callable[[RunSpec], str], shown: Any, *fields: Any) -> dict[Any, Any]:
        """Show the form as code."""
        try:
            return {self.code: gr.update(value=written(self._runnable(*fields)), visible=True)}
        except NBDiffError as error:
            return {self.stage: refused(shown, error), self.code: gr.update(value="", visible=False)}

    def _runnable(self, *fields: Any) -> RunSpec:
        """The form, if it has a prompt and is within the server's limits. Raises NBDiffError, one sentence."""
        spec = _spec(*fields)
        require_words(spec.prompt)
        check_limits(spec, self.options)
        return spec

    def restore(self, opening: str) -> dict[Any, Any]:
        """Fill the form from a link, or with what it held before a reload. See READ_OPENING."""
        kind, _, content = opening.partition(":") if isinstance(opening, str) else ("", "", "")
        if kind != "link":
            return {self.opened: False, **(self._restored(content) if kind == "form" else {})}
        try:
            spec = RunSpec.from_link(content)
        except NBDiffError as error:
            return {
                self.stage: stage_message(
                    race=recorded_race(self.opening.first.model), recorded=True, error=in_page_words(error)
                ),
                self.opened: False,
            }
        return {
            self.prompt: spec.prompt,
            self.editor: self._edited(spec.lanes),
            self.limit: spec.max_new_tokens,
            self.switches: [name for name, is_on in ((RAW, spec.raw), (IGNORE_EOS, spec.ignore_eos)) if is_on],
            self.opened: True,
            **self.opening.shown(self.opening.of_lanes(spec.lanes), spec.lanes),
        }

    def _restored(self, stored: str) -> dict[Any, Any]:
        """The form as the browser has stored it."""
        kept = kept_form(stored, self.options)
        opening = self.opening.of_lanes(kept.lanes)
        fields = {self.prompt: kept.prompt, self.limit: kept.max_new_tokens, self.switches: kept.switches}
        if kept.switches is not None:
            fields[self.switches] = _on(kept.switches)
        given = {field: value for field, value in fields.items() if value is not None}
        lanes = kept.lanes or opening.lanes
        given[self.editor] = self._edited(lanes)
        recorded = {} if kept.has_race or opening is self.opening.first else self._recorded(opening)
        return {**given, **self.opening.shown(opening, lanes), **recorded}

    def start_opened(self, opened: bool, *fields: Any) -> Any:
        """Run the form if a link has filled it."""
        return self.start(*fields) if opened else gr.skip()


def _spec(prompt: Any, editor: Any, limit: Any, switches: Any, so_far: Any = None) -> RunSpec:
    on = _on(switches)
    return RunSpec.of(
        prompt=prompt,
        lanes=lanes_editor.lanes_of(editor),
        max_new_tokens=limit,
        raw=RAW in on,
        ignore_eos=IGNORE_EOS in on,
        history=conversation.history(so_far) if KEEP in on else (),
    )


def _on(switches: Any) -> list[str]:
    """The switches that are on, from the page's value."""
    return [name for name in SWITCHES if name in switches] if isinstance(switches, list) else []
