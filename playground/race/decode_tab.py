"""The decode tab: a prompt, lanes to answer it, Run, Stop, and the stage on which they race."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine import BlockModel, NBDiffError
from playground.options import ServerOptions
from playground.race import conversation, lanes_editor
from playground.race import stage as race_stage
from playground.race.conversation import KeptTurn
from playground.race.decode_figures import build_figures, figures_of, first_mapped
from playground.race.examples import EXAMPLE_LABELS, EXAMPLES, MAX_NEW_TOKENS
from playground.race.forks import check_fork
from playground.race.frames import race_of
from playground.race.imported_race import check_race
from playground.race.lanes import CheckedRun, check
from playground.race.lanes_editor import EditorValue
from playground.race.presets import presets
from playground.race.race_file import Race
from playground.race.recorded_race import recorded_race
from playground.race.run_spec import LaneSpec, RunSpec
from playground.race.stage import LaneTitle, StageValue
from playground.race.verdict import summary
from playground.server.loaded_models import LoadedModels
from playground.server.transport import transport
from playground.server.worker import QueueFullError, Worker

RAW, FIXED, KEEP = SWITCHES = ("Raw prompt", "Fixed length", "Chat: keep turns")
ASKED = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}

_SHOW_LINK = """(link) => {
    if (!link) return link;
    const url = new URL(location.href);
    url.hash = "run=" + link;
    history.replaceState(null, "", url);
    navigator.clipboard?.writeText(url.href).catch(() => {});
    return url.href;
}"""
_READ_LINK = "() => [location.hash.startsWith('#run=') ? location.hash.slice(5) : '']"


class Shown(BaseModel):
    """The parts of the stage's value that say what is on it."""

    model_config = ConfigDict(extra="ignore")

    run: str | None = Field(default=None, max_length=64)
    keep: int = Field(default=0, ge=0, le=200)
    lanes: list[LaneTitle] = Field(default_factory=list, max_length=200)


class DecodeTab:
    """The tab's handlers around the worker and the loaded models. `build` lays it out in the Blocks being built."""

    def __init__(self, loaded: LoadedModels, model: BlockModel, worker: Worker, options: ServerOptions):
        """model: what the presets are for, the one that the server was started with."""
        self.loaded = loaded
        self.worker = worker
        self.options = options
        beside = next((name for name in loaded.names() if name == f"{model.name}-ar"), None)
        self.presets = presets(model, beside)

    # -- layout ------------------------------------------------------------------------------------------

    def build(self, blocks: gr.Blocks) -> gr.HTML:
        """Lay out the tab in `blocks`; returns the lanes editor, whose models other tabs change."""
        first = next(iter(self.presets))
        options = self.options
        with gr.Row(elem_id="ask"):
            with gr.Column(scale=3, min_width=320):
                self.prompt = gr.Textbox(
                    label="Prompt",
                    value=EXAMPLES[0],
                    lines=3,
                    max_lines=10,
                    placeholder="Ask something. Shift + Enter runs it.",
                )
                # Shown whole as buttons that fill the prompt; nothing is run or cached ahead.
                gr.Examples(
                    [[text] for text in EXAMPLES],
                    inputs=self.prompt,
                    label="Examples",
                    example_labels=list(EXAMPLE_LABELS),
                    api_visibility="private",
                )
            with gr.Column(scale=2, min_width=320, elem_id="controls"):
                with gr.Row():
                    self.preset = gr.Dropdown(list(self.presets), value=first, label="Preset", min_width=150)
                    self.limit = gr.Number(
                        min(MAX_NEW_TOKENS, options.max_new_tokens), label="Max new tokens", min_width=120
                    )
                self.switches = gr.CheckboxGroup(
                    list(SWITCHES), show_label=False, container=False, label="Switches", elem_id="switches"
                )
                with gr.Row():
                    self.run_button = gr.Button("Run", variant="primary", min_width=110, elem_id="run")
                    self.stop_button = gr.Button(
                        "Stop", variant="stop", interactive=False, min_width=110, elem_id="stop"
                    )
                    self.link_button = gr.Button("Copy link", min_width=110)
        self.editor = lanes_editor.build(self.loaded, options, self.presets[first])
        self.address = gr.Textbox(
            label="A link to this run", visible=False, interactive=False, buttons=["copy"], elem_id="link"
        )
        self.chat = conversation.build()
        recorded = recorded_race()
        self.stage = race_stage.build(_message(race=recorded, recorded=True), transport(self.worker))
        self.figures, self.map_lane = build_figures(recorded)
        self.on_stage = gr.State(recorded)  # the race whose figures are shown; a fork adds to it
        self.asked = gr.State("")  # the prompt of the run under way
        self._wire(blocks)
        return self.editor

    def _wire(self, blocks: gr.Blocks) -> None:
        stage, chat, address = self.stage, self.chat, self.address
        form = [self.prompt, self.editor, self.limit, self.switches, chat.turns]
        drawn = [*self.figures, self.map_lane]
        gr.on(
            [self.run_button.click, self.prompt.submit],
            self.start,
            [stage, *form],
            [stage, self.stop_button, self.asked],
            **ASKED,
        )
        self.stop_button.click(self.stop, stage, None, **ASKED)
        self.preset.input(self.choose, self.preset, self.editor, **ASKED)
        stage.ended(
            self.ended,
            [stage, self.on_stage, self.asked, self.switches, chat.turns],
            [self.stop_button, self.on_stage, *chat.outputs, *drawn],
            **ASKED,
        )
        stage.fork(self.fork, stage, [stage, self.stop_button], **ASKED)
        self.map_lane.input(
            lambda race, lane: figures_of(race, lane)[-1], [self.on_stage, self.map_lane], self.figures[-1], **ASKED
        )
        chat.list.input(self.show_turn, [chat.turns, chat.list], [stage, self.on_stage], **ASKED)
        chat.clear.click(lambda: chat.shown([]), None, chat.outputs, **ASKED)
        stage.imported(self.imported, stage, [stage, self.on_stage, *drawn], **ASKED)
        self.link_button.click(self.link, [stage, *form], [stage, address], **ASKED).then(
            None, address, address, js=_SHOW_LINK, api_visibility="private"
        )
        self.opened = gr.State(False)  # whether this page was opened by a link
        blocks.load(
            self.restore,
            address,
            [stage, self.prompt, self.editor, self.limit, self.switches, self.opened],
            js=_READ_LINK,
            **ASKED,
        ).then(self.start_opened, [self.opened, stage, *form], [stage, self.stop_button, self.asked], **ASKED)

    # -- what visitors ask -------------------------------------------------------------------------------

    def start(self, shown: Any, prompt: Any, *fields: Any) -> dict[Any, Any]:
        """Queue what the visitor asks for, or say in one sentence why not; a run that is under way then goes on."""
        try:
            request = check(self.loaded, _spec(prompt, *fields), self.options)
            value = self._submit(request, title=prompt)
        except (NBDiffError, QueueFullError) as error:
            return {self.stage: _refused(shown, error)}
        return {self.stage: value, self.stop_button: gr.update(interactive=True), self.asked: prompt}

    def fork(self, shown: Any, event: gr.EventData) -> dict[Any, Any]:
        """Continue a changed trace in a new lane beside those on the stage."""
        on_it = _shown(shown)
        try:
            data = dict(event._data)
            request = check_fork(self.loaded, data, self.options)
            keep = data.get("lanes")
            keep = keep if isinstance(keep, int) and 0 <= keep < 200 else on_it.keep + len(on_it.lanes)
            value = self._submit(request, keep=keep)
        except (NBDiffError, QueueFullError, TypeError, ValueError) as error:
            return {self.stage: _refused(shown, error)}
        return {self.stage: value, self.stop_button: gr.update(interactive=True)}

    def _submit(self, run: CheckedRun, title: str = "", keep: int = 0) -> dict[str, Any]:
        run_id = self.worker.submit(run.parts, summary)
        return _message(run=run_id, lanes=run.titles, note=run.note, title=title, keep=keep)

    def stop(self, shown: Any) -> None:
        """End the run on the stage."""
        if (run_id := _shown(shown).run) is not None:
            self.worker.stop(run_id)

    def ended(
        self, shown: Any, before: Race | None, asked: str, switches: Any, so_far: list[KeptTurn]
    ) -> dict[Any, Any]:
        """A run is over: its figures, its turn, and Stop gone, unless a new run has begun since."""
        on_it = _shown(shown)
        live = on_it.run is not None and self.worker.is_live(on_it.run)
        stop = {self.stop_button: gr.update(interactive=live)}
        if live:
            return stop
        if on_it.run is None:  # a race that was put there whole
            return {**stop, **self._drawn(before)}
        done = race_of(self.worker.log(on_it.run), asked)
        if on_it.keep and before is not None:
            done = dataclasses.replace(done, lanes=(*before.lanes[: on_it.keep], *done.lanes))
        elif KEEP in _on(switches):
            so_far = conversation.added(so_far, asked, done)
        return {**stop, self.on_stage: done, **self.chat.shown(so_far), **self._drawn(done)}

    def imported(self, shown: Any, event: gr.EventData) -> dict[Any, Any]:
        """The figures of a race that the page has read from a file."""
        try:
            read = check_race((event._data or {}).get("race"))
        except (NBDiffError, AttributeError) as error:
            return {self.stage: _refused(shown, error)}
        return {self.on_stage: read, **self._drawn(read)}

    def choose(self, name: str) -> dict[Any, Any]:
        """The lanes of a preset, in the editor."""
        return {self.editor: self._edited(self.presets.get(name) or [])}

    def show_turn(self, so_far: list[KeptTurn], chosen: Any) -> Any:
        """Put an earlier turn's race on the stage."""
        if not isinstance(chosen, int) or not 0 <= chosen < len(so_far):
            return gr.skip()
        race = so_far[chosen].race
        return {self.stage: _message(race=race), self.on_stage: race}

    def _edited(self, lanes: Sequence[LaneSpec]) -> dict[str, Any]:
        return EditorValue.of(self.loaded, self.options, lanes).to_json()

    def _drawn(self, race: Race | None) -> dict[Any, Any]:
        """The three figures of a race, and the list of its lanes for the map."""
        names = [lane.name for lane in race.lanes] if race else []
        chosen = first_mapped(race)
        figures = dict(zip(self.figures, figures_of(race, chosen), strict=True))
        return {**figures, self.map_lane: gr.update(choices=names, value=chosen)}

    # -- links -------------------------------------------------------------------------------------------

    def link(self, shown: Any, *fields: Any) -> dict[Any, Any]:
        """The form as a link."""
        try:
            return {self.address: gr.update(value=_spec(*fields).to_link(), visible=True)}
        except NBDiffError as error:
            return {self.stage: _refused(shown, error)}

    def restore(self, link: str) -> dict[Any, Any]:
        """Fill the form from a link; without one it stays as it is, but for models that were loaded since."""
        if not link:
            return {self.editor: self._edited(next(iter(self.presets.values()))), self.opened: False}
        try:
            spec = RunSpec.from_link(link)
        except NBDiffError as error:
            return {self.stage: _message(race=recorded_race(), recorded=True, error=str(error)), self.opened: False}
        return {
            self.prompt: spec.prompt,
            self.editor: self._edited(spec.lanes),
            self.limit: spec.max_new_tokens,
            self.switches: [name for name, is_on in ((RAW, spec.raw), (FIXED, spec.ignore_eos)) if is_on],
            self.opened: True,
        }

    def start_opened(self, opened: bool, *fields: Any) -> Any:
        """A link that was opened runs."""
        return self.start(*fields) if opened else gr.skip()


def _message(**fields: Any) -> dict[str, Any]:
    """A StageValue of these fields, as the stage takes it."""
    return StageValue(**fields).to_json()


def _refused(shown: Any, error: Exception) -> dict[str, Any]:
    """What is on the stage stays there, under the sentence."""
    on_it = _shown(shown)
    return _message(run=on_it.run, keep=on_it.keep, lanes=on_it.lanes, error=str(error))


def _spec(prompt: Any, editor: Any, limit: Any, switches: Any, so_far: Any = None) -> RunSpec:
    on = _on(switches)
    return RunSpec.of(
        prompt=prompt,
        lanes=lanes_editor.lanes_of(editor),
        max_new_tokens=limit,
        raw=RAW in on,
        ignore_eos=FIXED in on,
        history=conversation.history(so_far) if KEEP in on else (),
    )


def _on(switches: Any) -> list[str]:
    """The switches that are on, as the page says."""
    return [name for name in SWITCHES if name in switches] if isinstance(switches, list) else []


def _shown(value: Any) -> Shown:
    """What is on the stage, as the page says; nothing for anything that is no such value."""
    try:
        return Shown.model_validate(value)
    except ValidationError:
        return Shown()
