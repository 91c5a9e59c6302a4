"""The Models tab: list the loaded models, and load or unload models within the operator's limits."""

import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.options import ServerOptions
from playground.race.lanes import guarded_warm_up
from playground.server.following import outcome
from playground.server.loaded_models import QUANTIZATIONS, LoadedModels, ModelFacts
from playground.server.loading_frames import Loaded, Refused
from playground.server.worker import Frame, QueueFullError, RunPart, Worker

HEADERS = ["Name", "Source", "Parameters", "Blocks", "Precision", "Memory", "Context", "Device"]
PRIVATE = {"api_visibility": "private"}


class ModelsTab:
    """`build` lays it out in the Blocks being built."""

    def __init__(self, loaded: LoadedModels, worker: Worker, options: ServerOptions):
        self.loaded = loaded
        self.worker = worker
        self.options = options

    def build(self, blocks: gr.Blocks) -> gr.State:
        """Lay it out. Returns a state whose value changes when this page has loaded or unloaded a model."""
        self.changed = gr.State("")
        gr.Markdown(self._rules(), elem_id="model-rules")
        self.table = gr.Dataframe(
            self._rows(),
            headers=HEADERS,
            column_widths=["13%", "13%", "9%", "33%", "9%", "8%", "10%", "5%"],
            interactive=False,
            show_label=False,
            wrap=True,
            elem_id="models",
        )
        with gr.Row(elem_classes="asking"):
            name = gr.Textbox(
                label="Load a model",
                placeholder="bundled name, folder, GGUF file or hub id",
                scale=3,
                min_width=220,
                max_lines=1,
            )
            how = gr.Radio(list(QUANTIZATIONS), value="As stored", label="Weights", scale=2, min_width=220)
            load = gr.Button("Load", variant="primary", scale=1, min_width=110, elem_id="load")
        with gr.Row(elem_classes="asking"):
            self.which = gr.Dropdown(self.loaded.names(), label="Unload a model", scale=3, min_width=220)
            unload = gr.Button("Unload", scale=1, min_width=110, elem_id="unload")
        self.message = gr.Markdown("", elem_id="model-news")
        self.lists = [self.table, self.which]
        outputs = [self.message, *self.lists, self.changed]
        # The worker also loads models. It does one run at a time, so no lane is timed meanwhile.
        gr.on(
            [load.click, name.submit],
            self.load,
            [name, how],
            outputs,
            show_progress="minimal",
            show_progress_on=self.message,
            concurrency_limit=4,
            **PRIVATE,
        )
        unload.click(self.unload, self.which, outputs, queue=False, **PRIVATE)
        blocks.load(self.refreshed, None, self.lists, queue=False, show_progress="hidden", **PRIVATE)
        return self.changed

    def load(self, name: str, how: str) -> dict[Any, Any]:
        """Load a model by name, and show the result in one sentence."""
        try:
            run_id = self.worker.submit([RunPart("load", lambda: self._frames(name, how))])
        except QueueFullError as error:
            return {self.message: _plain(str(error))}
        reply = outcome(self.worker, run_id)
        frames = [each.frame for each in reply.frames]
        refused = next((frame for frame in frames if isinstance(frame, Refused)), None)
        got = next((frame for frame in frames if isinstance(frame, Loaded)), None)
        if refused or not got:
            return {self.message: _plain(refused.sentence if refused else reply.message)}
        return self._done(f"{got.name} is loaded.")

    def _frames(self, name: str, how: str) -> Iterator[Frame]:
        """Load and warm up a model. An error becomes a frame."""
        try:
            got = self.loaded.load(name, QUANTIZATIONS.get(how, how))
            yield Loaded(got)
            guarded_warm_up(self.loaded, got)
        except NBDiffError as error:
            yield Refused(str(error))

    def unload(self, name: str) -> dict[Any, Any]:
        """Unload a model and free its memory."""
        try:
            self.loaded.unload(name)
        except NBDiffError as error:
            return {self.message: _plain(str(error))}
        return self._done(f"{name} is unloaded.")

    def _done(self, sentence: str) -> dict[Any, Any]:
        """The sentence and the current lists. The new value of `changed` updates the other tabs."""
        return {self.message: _plain(sentence), **self.refreshed(), self.changed: secrets.token_hex(4)}

    def refreshed(self) -> dict[Any, Any]:
        """The current table and list."""
        return {self.table: self._rows(), self.which: gr.update(choices=self.loaded.names(), value=None)}

    def _rows(self) -> list[list[str]]:
        return [_cells(each) for each in self.loaded.facts()]

    def _rules(self) -> str:
        options = self.options
        where = ["bundled models"]
        if options.model_roots:
            where.append(f"folders inside {len(options.model_roots)} allowed root(s)")
        if options.hub:
            where.append("models from the hub")
        return (
            f"This server loads {', '.join(where)}; at most {options.max_models} at a time, each of at most "
            f"{options.max_model_gb:g} GB, only from safetensors files, and never runs code from a checkpoint."
        )


def _cells(of: ModelFacts) -> list[str]:
    size = of.parameters
    parameters = f"{size / 1e9:.2f}B" if size >= 1e9 else f"{size / 1e6:.1f}M"
    memory = f"{of.memory / 1e9:.2f} GB" if of.memory >= 1e9 else f"{of.memory / 1e6:.0f} MB"
    context = f"{of.context_length:,} tokens"
    return [of.name, of.origin, parameters, of.about_blocks, of.dtype, memory, context, of.device]


def _plain(text: str) -> str:
    """A sentence as Markdown that shows it as plain text: it may contain text from a visitor."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|<>~$&:" else letter for letter in text)
