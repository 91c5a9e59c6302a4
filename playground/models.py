"""The Models tab: the models on this machine as cards, which load, unload, go into a lane, or start a training job."""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError, SettingError
from playground.model_cards import Card, cards
from playground.options import ServerOptions
from playground.page_words import counted, say
from playground.race.lanes import guarded_warm_up
from playground.server.following import replies
from playground.server.found_models import FoundModel, FoundModels
from playground.server.loaded_models import QUANTIZATIONS, LoadedModels
from playground.server.loading_frames import Loaded, Loading, Refused
from playground.server.web_files import read
from playground.server.worker import Frame, QueueFullError, RunPart, Worker

PRIVATE = {"api_visibility": "private"}
Load = Callable[[], str]  # loads a model; returns its name on this server

BY_NAME = ""  # the card of a message about a model that was named in the form


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model that the visitor has chosen for a lane or for a training job. serial: differs each time, so that Gradio
    notices the same model again."""

    name: str
    serial: str

    @classmethod
    def of(cls, name: str) -> "Chosen":
        return cls(name, secrets.token_hex(4))


class ModelsTab:
    """`build` lays it out in the Blocks being built.

    Other tabs use three states. changed: has another value when a model was loaded or unloaded. for_lane: a Chosen with
    the name of a loaded model. to_adapt: a Chosen with the id of a model that a training job starts from.
    """

    def __init__(self, loaded: LoadedModels, worker: Worker, options: ServerOptions, found: FoundModels):
        self.loaded = loaded
        self.worker = worker
        self.options = options
        self.found = found

    def build(self) -> None:
        """Lay it out. `refreshed` must fill it when it is shown."""
        self.changed, self.for_lane, self.to_adapt = gr.State(""), gr.State(None), gr.State(None)
        gr.Markdown(self._rules(), elem_id="model-rules")
        self.list = gr.HTML(
            value={"cards": None, "news": None},  # they are listed when the tab is shown
            html_template=read("models.html"),
            css_template=read("models.css"),
            js_on_load=read("models.js"),
            apply_default_css=False,
            elem_id="models",
        )
        with gr.Row(elem_classes="asking"):
            name = gr.Textbox(
                label="Load another model",
                placeholder="folder, GGUF file or hub id",
                scale=3,
                min_width=220,
                max_lines=1,
            )
            how = gr.Radio(list(QUANTIZATIONS), value="As stored", label="Weights", scale=2, min_width=220)
            load = gr.Button("Load", variant="primary", scale=1, min_width=110, elem_id="load")
        self.message = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="model-news")
        outputs = [self.list, self.message, self.changed, self.for_lane]
        hidden = {"show_progress": "hidden", **PRIVATE}
        # The worker also loads models. It does one run at a time, so no lane is timed meanwhile.
        gr.on([load.click, name.submit], self.load_named, [name, how], outputs, concurrency_limit=4, **hidden)
        self.list.loading(self.load_found, None, outputs, concurrency_limit=4, **hidden)
        self.list.used(self.use, None, outputs, concurrency_limit=4, **hidden)
        # Only an event in the queue of Gradio triggers the `change` of a state that it sets.
        self.list.unloading(self.unload, None, outputs, **hidden)
        self.list.adapting(self.adapt, None, [self.list, self.to_adapt], **hidden)

    @property
    def said(self) -> list[Any]:
        """The components that show a message."""
        return [self.list, self.message]

    # -- requests of visitors ----------------------------------------------------------------------------

    def load_named(self, name: str, how: str) -> Iterator[dict[Any, Any]]:
        """Load a model that the visitor has named, and say how it goes below the form."""
        yield from self._load(BY_NAME, lambda: self.loaded.load(name, QUANTIZATIONS.get(how, how)))

    def load_found(self, event: gr.EventData) -> Iterator[dict[Any, Any]]:
        """Load the model of a card."""
        yield from self._load(_sent(event, "id"), self._loader(_sent(event, "id")))

    def use(self, event: gr.EventData) -> Iterator[dict[Any, Any]]:
        """Put a model into a lane; load it first unless it is loaded."""
        card, name = _sent(event, "id"), _sent(event, "name")
        if name in self.loaded.names():
            yield {self.for_lane: Chosen.of(name)}
            return
        yield from self._load(card, self._loader(card), for_lane=True)

    def _loader(self, card: str) -> Load:
        def load() -> str:
            model = self.found.get(card)
            if model.outline.problem:
                raise SettingError(f"{model.name} cannot be loaded: {model.outline.problem}")
            return self.loaded.load_known(model.source, model.name, model.place)

        return load

    def _load(self, card: str, load: Load, for_lane: bool = False) -> Iterator[dict[Any, Any]]:
        """Load a model on the worker's thread; the progress and the result appear in the card."""
        try:
            run_id = self.worker.submit([RunPart("load", lambda: self._frames(load))])
        except QueueFullError as error:
            yield self._say(card, str(error), error=True)
            return
        began, said, name, refused, reply = time.monotonic(), "", "", "", None
        found = self.found.models()  # once, not for every second of the progress: it reads the headers of all files
        for reply in replies(self.worker, run_id):
            frames = [each.frame for each in reply.frames]
            name = next((frame.name for frame in frames if isinstance(frame, Loaded)), name)
            refused = next((frame.sentence for frame in frames if isinstance(frame, Refused)), refused)
            seconds = int(time.monotonic() - began)
            if reply.state == "queued":
                words = f"Waiting for {counted(reply.ahead, 'run')} before it."
            else:
                words = "Decoding a first answer" if name else "Reading the weights"
                words += f", {seconds} s." if seconds else "."
            if words != said and reply.state in ("queued", "running"):
                said = words
                yield self._say(card, words, busy=True, found=found)
        if refused or not name:
            yield self._say(card, refused or (reply.message if reply else "") or "It was not loaded.", error=True)
            return
        # What follows for_lane sets `changed`: otherwise both would change the lanes at once.
        after = {self.for_lane: Chosen.of(name)} if for_lane else {self.changed: secrets.token_hex(4)}
        yield {**self._say(card, f"{name} is loaded."), **after}

    def _frames(self, load: Load) -> Iterator[Frame]:
        """Load and warm up a model. An error becomes a frame."""
        try:
            yield Loading()
            name = load()
            yield Loaded(name)
            guarded_warm_up(self.loaded, name)
        except NBDiffError as error:
            yield Refused(str(error))

    def unload(self, event: gr.EventData) -> dict[Any, Any]:
        """Unload a model and free its memory."""
        card, name = _sent(event, "id"), _sent(event, "name")
        try:
            self.loaded.unload(name)
        except NBDiffError as error:
            return self._say(card, str(error), error=True)
        return {**self._say(card, f"{name} is unloaded."), self.changed: secrets.token_hex(4)}

    def adapt(self, event: gr.EventData) -> dict[Any, Any]:
        """Start a training job's form from the model of a card."""
        return {self.to_adapt: Chosen.of(_sent(event, "id"))}

    def refuse(self, name: str, why: str) -> dict[Any, Any]:
        """Say in the card of a loaded model why it cannot be used."""
        found = self.found.models()
        card = next((each.id for each in self._cards(found) for own in each.loaded if own.name == name), BY_NAME)
        return self._say(card, why, error=True, found=found)

    def refreshed(self) -> dict[Any, Any]:
        """The list as it is now."""
        return {self.list: self._value()}

    # -- what is shown -----------------------------------------------------------------------------------

    def _say(
        self, card: str, text: str, error: bool = False, busy: bool = False, found: list[FoundModel] | None = None
    ) -> dict[Any, Any]:
        """Show a sentence in a card, or below the form, and the list. found: the models on this machine, if known."""
        news = {"card": card, "text": text, "error": error, "busy": busy}
        if card == BY_NAME:
            return {self.list: self._value(None, found), self.message: say(text, error)}
        return {self.list: self._value(news, found), self.message: ""}

    def _value(self, news: dict[str, Any] | None = None, found: list[FoundModel] | None = None) -> dict[str, Any]:
        return {"cards": [card.to_json() for card in self._cards(found)], "news": news}

    def _cards(self, found: list[FoundModel] | None = None) -> list[Card]:
        return cards(self.found.models() if found is None else found, self.loaded.facts(), self.options.trains)

    def _rules(self) -> str:
        options = self.options
        where = ["bundled models"]
        if options.model_roots:
            count = len(options.model_roots)
            where.append(f"what is in {'one allowed folder' if count == 1 else f'{count} allowed folders'}")
        if options.hub:
            where.append("models from the hub")
        elif options.is_local:
            where.append("models that this machine has in its cache")
        *first, last = where
        kinds = f"{', '.join(first)} and {last}" if first else last
        return (
            f"This server loads {kinds}; at most {options.max_models} at a time, each of at most "
            f"{options.max_model_gb:g} GB, only from safetensors and GGUF files, and never runs code from a checkpoint."
        )


def _sent(event: gr.EventData, key: str) -> str:
    """A text of an event's payload; "" if the page has sent none."""
    data = event._data if isinstance(event._data, dict) else {}
    value = data.get(key)
    return value if isinstance(value, str) else ""
