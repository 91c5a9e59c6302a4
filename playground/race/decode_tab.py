"""The decode tab: a prompt, lanes to answer it, Run, Stop, and the stage on which they race."""

import secrets
from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine import BlockModel, NBDiffError
from playground.options import Options
from playground.race import conversation, lanes_editor
from playground.race import stage as race_stage
from playground.race.decode_figures import build_figures, figures_of
from playground.race.examples import EXAMPLE_LABELS, EXAMPLES, MAX_NEW_TOKENS
from playground.race.forks import check_fork
from playground.race.frames import race
from playground.race.imported_race import check_race
from playground.race.lanes import Request, check
from playground.race.presets import presets
from playground.race.recorded_race import recorded_race
from playground.race.run_spec import RunSpec
from playground.race.verdict import summary_frame
from playground.server.loaded_models import Shelf
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
    lanes: list[Any] = Field(default_factory=list, max_length=200)


class DecodeTab:
    """The tab's handlers around its worker and shelf. `build` lays it out in the Blocks being built."""

    def __init__(self, shelf: Shelf, model: BlockModel, worker: Worker, options: Options):
        """model: what the presets are for, the one that the server was started with."""
        self.shelf = shelf
        self.worker = worker
        self.options = options
        beside = next((name for name in shelf.names() if name == f"{model.name}-ar"), None)
        self.presets = presets(model, beside)

    # -- layout ------------------------------------------------------------------------------------------

    def build(self, blocks: gr.Blocks) -> gr.HTML:
        """Lay out the tab in `blocks`; returns the lanes editor, whose models other tabs change."""
        first = next(iter(self.presets))
        options = self.options
        with gr.Row(elem_id="ask"):
            with gr.Column(scale=3, min_width=320):
                prompt = gr.Textbox(
                    label="Prompt",
                    value=EXAMPLES[0],
                    lines=3,
                    max_lines=10,
                    placeholder="Ask something. Shift + Enter runs it.",
                )
                # Shown whole as buttons that fill the prompt; nothing is run or cached ahead.
                gr.Examples(
                    [[text] for text in EXAMPLES],
                    inputs=prompt,
                    label="Examples",
                    example_labels=list(EXAMPLE_LABELS),
                    api_visibility="private",
                )
            with gr.Column(scale=2, min_width=320, elem_id="controls"):
                with gr.Row():
                    preset = gr.Dropdown(list(self.presets), value=first, label="Preset", min_width=150)
                    limit = gr.Number(
                        min(MAX_NEW_TOKENS, options.max_new_tokens), label="Max new tokens", min_width=120
                    )
                switches = gr.CheckboxGroup(
                    list(SWITCHES), show_label=False, container=False, label="Switches", elem_id="switches"
                )
                with gr.Row():
                    run = gr.Button("Run", variant="primary", min_width=110, elem_id="run")
                    stop = gr.Button("Stop", variant="stop", interactive=False, min_width=110, elem_id="stop")
                    link = gr.Button("Copy link", min_width=110)
        editor = lanes_editor.build(self.shelf, options, self.presets[first])
        address = gr.Textbox(
            label="A link to this run", visible=False, interactive=False, buttons=["copy"], elem_id="link"
        )
        chat = conversation.build()
        recorded = recorded_race()
        stage = race_stage.build(self._value(race=recorded, recorded=True), transport(self.worker))
        figures, map_lane = build_figures(recorded)

        on_stage = gr.State(recorded)  # the race whose figures are shown; a fork adds to it
        asked = gr.State("")  # the prompt of the run under way
        form = [prompt, editor, limit, switches, chat.turns]
        gr.on(
            [run.click, prompt.submit],
            self.start,
            [stage, *form],
            [stage, stop, asked],
            **ASKED,
        )
        stop.click(self.stop, stage, None, **ASKED)
        preset.input(self.choose, preset, editor, **ASKED)
        stage.ended(
            self.ended,
            [stage, on_stage, asked, switches, chat.turns],
            [stop, on_stage, *chat.shown, *figures, map_lane],
            **ASKED,
        )
        stage.fork(self.fork, stage, [stage, stop], **ASKED)
        map_lane.input(lambda race, lane: figures_of(race, lane)[-1], [on_stage, map_lane], figures[-1], **ASKED)
        chat.list.input(self.show_turn, [chat.turns, chat.list], [stage, on_stage], **ASKED)
        chat.clear.click(conversation.cleared, None, chat.shown, **ASKED)
        stage.imported(self.imported, stage, [stage, on_stage, *figures, map_lane], **ASKED)
        link.click(self.link, [stage, *form], [stage, address], **ASKED).then(
            None, address, address, js=_SHOW_LINK, api_visibility="private"
        )
        opened = gr.State(False)
        blocks.load(
            self.restore,
            address,
            [stage, prompt, editor, limit, switches, opened],
            js=_READ_LINK,
            **ASKED,
        ).then(self.start_opened, [opened, stage, *form], [stage, stop, asked], **ASKED)
        return editor

    def _value(self, **news: Any) -> dict[str, Any]:
        """The stage's value. `serial` makes every one new, or the page would not notice the same message twice."""
        value = {
            "run": None,
            "race": None,
            "recorded": False,
            "lanes": [],
            "keep": 0,
            "title": "",
            "error": "",
            "note": "",
        }
        return {**value, "policies": list(lanes_editor.POLICIES), "serial": secrets.token_hex(4), **news}

    # -- what visitors ask -------------------------------------------------------------------------------

    def start(self, shown: Any, prompt: Any, *fields: Any) -> tuple[Any, Any, Any]:
        """Queue what the visitor asks for, or say in one sentence why not; a run that is under way then goes on."""
        try:
            request = check(self.shelf, _spec(prompt, *fields), self.options)
            value = self._submit(request, title=prompt)
        except (NBDiffError, QueueFullError) as error:
            return self._refused(shown, error), gr.skip(), gr.skip()
        return value, gr.update(interactive=True), prompt

    def fork(self, shown: Any, event: gr.EventData) -> tuple[Any, Any]:
        """Continue a changed trace in a new lane beside those on the stage."""
        on_it = _shown(shown)
        try:
            data = dict(event._data)
            request = check_fork(self.shelf, data, self.options)
            keep = data.get("lanes")
            keep = keep if isinstance(keep, int) and 0 <= keep < 200 else on_it.keep + len(on_it.lanes)
            value = self._submit(request, keep=keep)
        except (NBDiffError, QueueFullError, TypeError, ValueError) as error:
            return self._refused(shown, error), gr.skip()
        return value, gr.update(interactive=True)

    def _submit(self, request: Request, **news: Any) -> dict[str, Any]:
        run_id = self.worker.submit(request.lanes, summary_frame)
        lanes = [{"name": name, "about": about} for name, about in zip(request.names, request.abouts)]
        return self._value(run=run_id, lanes=lanes, note=request.note, **news)

    def _refused(self, shown: Any, error: Exception) -> dict[str, Any]:
        """What is on the stage stays there, under the sentence."""
        on_it = _shown(shown)
        return self._value(run=on_it.run, keep=on_it.keep, lanes=on_it.lanes, error=str(error))

    def stop(self, shown: Any) -> None:
        """End the run on the stage."""
        if (run_id := _shown(shown).run) is not None:
            self.worker.stop(run_id)

    def ended(self, shown: Any, before: Any, asked: str, switches: Any, so_far: list) -> tuple[Any, ...]:
        """A run is over: its figures, its turn, and Stop gone, unless a new run has begun since."""
        on_it = _shown(shown)
        live = on_it.run is not None and self.worker.is_live(on_it.run)
        stop = gr.update(interactive=live)
        if live:
            return stop, *[gr.skip()] * 8
        if on_it.run is None:  # a race that was put there whole
            return stop, *[gr.skip()] * 4, *_drawn(before)
        log = self.worker.log(on_it.run)
        done = race(log, asked)
        if on_it.keep and isinstance(before, dict):
            done["lanes"] = [*before.get("lanes", [])[: on_it.keep], *done["lanes"]]
        elif KEEP in _on(switches):
            so_far = conversation.added(so_far, asked, done)
        return stop, done, so_far, *conversation.choices(so_far), *_drawn(done)

    def imported(self, shown: Any, event: gr.EventData) -> tuple[Any, ...]:
        """The figures of a race that the page has read from a file."""
        try:
            read = check_race((event._data or {}).get("race"))
        except (NBDiffError, AttributeError) as error:
            return self._refused(shown, error), *[gr.skip()] * 5
        return gr.skip(), read, *_drawn(read)

    def choose(self, name: str) -> Any:
        """The lanes of a preset, for the editor."""
        return lanes_editor.value(self.shelf, self.options, self.presets.get(name) or [])

    def show_turn(self, so_far: list, chosen: Any) -> tuple[Any, Any]:
        """Put an earlier turn's race on the stage."""
        if not isinstance(chosen, int) or not 0 <= chosen < len(so_far):
            return gr.skip(), gr.skip()
        shown = so_far[chosen]["race"]
        return self._value(race=shown), shown

    # -- links -------------------------------------------------------------------------------------------

    def link(self, shown: Any, *fields: Any) -> tuple[Any, Any]:
        """The form as a link."""
        try:
            return gr.skip(), gr.update(value=_spec(*fields).to_link(), visible=True)
        except NBDiffError as error:
            return self._refused(shown, error), gr.skip()

    def restore(self, link: str) -> tuple[Any, ...]:
        """Fill the form from a link; without one it stays as it is, but for models that were loaded since."""
        if not link:
            editor = lanes_editor.value(self.shelf, self.options, next(iter(self.presets.values())))
            return gr.skip(), gr.skip(), editor, *[gr.skip()] * 2, False
        try:
            spec = RunSpec.from_link(link)
        except NBDiffError as error:
            return self._value(race=recorded_race(), recorded=True, error=str(error)), *[gr.skip()] * 4, False
        editor = lanes_editor.value(self.shelf, self.options, spec.lanes)
        on = [name for name, is_on in ((RAW, spec.raw), (FIXED, spec.ignore_eos)) if is_on]
        return gr.skip(), spec.prompt, editor, spec.max_new_tokens, on, True

    def start_opened(self, opened: bool, *fields: Any) -> tuple[Any, Any, Any]:
        """A link that was opened runs."""
        return self.start(*fields) if opened else (gr.skip(), gr.skip(), gr.skip())


def _drawn(shown: Any) -> tuple[Any, ...]:
    """The three figures of a race, and the list of its lanes for the map."""
    lanes = shown.get("lanes", []) if isinstance(shown, dict) else []
    names = [lane["name"] for lane in lanes]
    chosen = next((name for name in names if name.startswith("Block")), names[0] if names else None)
    return *figures_of(shown, chosen), gr.update(choices=names, value=chosen)


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
