"""The playground: the loaded models, the worker, the page with its tabs, and the server."""

import os
import secrets
import threading
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from nbdiff_engine import NBDiffError
from nbdiff_engine.serving.remote import RemoteServer
from playground import address, api
from playground.event_options import QUIET
from playground.header import TITLE, header
from playground.models import Chosen, ModelsTab
from playground.options import ServerOptions, StartError
from playground.page_words import say
from playground.race import lanes_editor
from playground.race.decode_tab import DecodeTab
from playground.race.lanes import guarded_warm_up
from playground.race.lanes_editor import EditorValue
from playground.race.stage import noted
from playground.server import web_files
from playground.server.found_models import FoundModels
from playground.server.loaded_models import LoadedModels, first_models
from playground.server.remote_models import RemoteModels
from playground.server.tables import STRATEGY_NAMES
from playground.server.worker import Limits, Worker
from playground.share_card import ShareCard
from playground.sweep import sweep_api
from playground.sweep.block_sizes_tab import BlockSizesTab
from playground.training_tab.checkpoint_opener import OpenedCheckpoint
from playground.training_tab.tab import TrainingTab
from training.jobs import Jobs

# Fonts of the system: the page downloads none.
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


class Playground:
    """The loaded models and their page. `launch` serves it until Ctrl+C."""

    def __init__(self, options: ServerOptions):
        """Raises StartError for a model that cannot be loaded or has no tokenizer, or a server that cannot be used."""
        try:
            if options.server is None:
                self.loaded = first_models(options)
            else:
                self.loaded = RemoteModels(RemoteServer(options.server, options.api_key))
        except NBDiffError as error:
            raise StartError(str(error)) from error
        self.options = options
        self.worker = Worker(
            Limits(
                queue=options.queue,
                wall_seconds=options.wall_seconds,
                lease_seconds=options.lease_seconds,
                log_bytes=int(options.trace_mb * 1e6),
            ),
            warm_up=self._warm_up,
        )
        page = _page if isinstance(self.loaded, LoadedModels) else _page_of_server
        self.blocks = page(self.loaded, self.worker, options)

    def _warm_up(self) -> None:
        """Load the model that is coming, or warm up the first one."""
        coming = self.loaded.coming
        if coming is None:
            guarded_warm_up(self.loaded, self.loaded.names()[0])
        else:
            coming.load(self.loaded.load, lambda name: guarded_warm_up(self.loaded, name))

    def launch(self) -> None:
        """Serve the page, print its address, and return after Ctrl+C."""
        options = self.options
        _reach_loopback_directly()
        try:
            self.blocks.launch(
                server_name=f"[{options.host}]" if ":" in options.host else options.host,  # IPv6, as in a URL
                server_port=options.port,
                auth=options.auth,
                theme=_theme(),
                css=web_files.read("page.css"),
                share=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=["api", "gradio", "settings"],
                allowed_paths=[],
                # Only training data is uploaded. Gradio has the upload route even if there is no training tab.
                max_file_size="512mb" if options.trains else "1mb",
                quiet=True,
                prevent_thread_lock=True,
                app_kwargs={"middleware": [Middleware(ShareCard)]},
            )
            _rest_while_idle(self.blocks)
            print(f"The playground is on {self.blocks.local_url.rstrip('/')} (Ctrl+C ends it)", flush=True)
            # Not before: while it loads a model, the page would open seconds later.
            self.worker.start()
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        except OSError:
            address.require_free(options.host, options.port)  # raises StartError if the port is used by now
            raise
        finally:
            self.worker.close()
            self.blocks.close(verbose=False)


def _page(loaded: LoadedModels, worker: Worker, options: ServerOptions) -> gr.Blocks:
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        top = gr.HTML(header(), js_on_load=web_files.read("text_fields.js"), apply_default_css=False, elem_id="header")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Decode", id="decode") as decode:
                decoding = DecodeTab(loaded, worker, options)
                editor = decoding.build(blocks)
            with gr.Tab("Block sizes", id="block-sizes") as block_sizes:
                sizes = BlockSizesTab(loaded, worker, options)
                sizes.build(blocks)
            jobs = Jobs() if options.trains else None
            with gr.Tab("Models", id="models") as models:
                models_tab = ModelsTab(loaded, worker, options, FoundModels(options, jobs))
                models_tab.build()
            if jobs is not None:
                with gr.Tab("Training", id="training") as own:
                    opened = gr.State(None)
                    training = TrainingTab(loaded, worker, options, jobs)
                    training.build(opened)
        if jobs is not None:
            training.wire(blocks, tabs, own, [decode, block_sizes, models])
            _open_in_decode_tab(opened, loaded, options, decoding, tabs, models_tab.changed)
            _adapt_in_training_tab(training, models_tab, editor, tabs)
        _use_in_decode_tab(models_tab, loaded, options, decoding, tabs)
        decoding.opens(sizes.opened, tabs)
        # The other tabs must list the models that one tab has loaded or unloaded.
        changed = models_tab.changed
        decoding.stage.arrived(lambda: secrets.token_hex(4), None, changed, **{**QUIET, "queue": True})
        changed.change(lambda shown: lanes_editor.refreshed(loaded, options, shown), editor, editor, **QUIET)
        changed.change(sizes.refreshed, sizes.lists, sizes.lists, **QUIET)
        models.select(models_tab.refreshed, None, models_tab.list, **QUIET)
        api.build(loaded, worker, options)
        sweep_api.build(loaded, worker, options)
    _copy_no_component_for_hidden_progress(blocks, top)
    return blocks


def _page_of_server(models: RemoteModels, worker: Worker, options: ServerOptions) -> gr.Blocks:
    """The page over a server: the Decode tab. The other tabs need weights on this machine, and say so."""
    where = models.server.url
    needs = {
        "Block sizes": "Block sizes decodes many problems in batches with a model on this machine",
        "Models": f"The models are those of {where}: {', '.join(models.names())}. Others are loaded on this machine",
        "Training": "Training starts from a model on this machine",
    }
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        top = gr.HTML(header(), js_on_load=None, apply_default_css=False, elem_id="header")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Decode", id="decode"):
                DecodeTab(models, worker, options).build(blocks)
            for name, why in needs.items():
                with gr.Tab(name):
                    gr.HTML(say(f"{why}; start the page without --server for it."), apply_default_css=False)
        api.build(models, worker, options)
    _copy_no_component_for_hidden_progress(blocks, top)
    return blocks


def _copy_no_component_for_hidden_progress(blocks: gr.Blocks, small: gr.HTML) -> None:
    """Name `small` as the place for the progress of each event that shows none.

    At each event, the browser copies all properties of each component that has been such a place, and those of its
    children (Gradio 6.31, update_state). By default the places are the outputs: the plots, and the tabs with the whole
    page in them.
    """
    for event in blocks.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [small]


def _use_in_decode_tab(
    models_tab: ModelsTab, loaded: LoadedModels, options: ServerOptions, decoding: DecodeTab, tabs: gr.Tabs
) -> None:
    """When the Models tab names a model for a lane, add that lane and show the Decode tab."""
    editor, stage, opening = decoding.editor, decoding.stage, decoding.opening

    def shown(chosen: Chosen | None, lanes: Any, on_stage: Any, model: Any) -> dict:
        if chosen is None:
            return gr.skip()
        try:
            added = lanes_editor.with_model(loaded, options, lanes, chosen.name)
        except NBDiffError as error:
            return models_tab.refuse(chosen.name, str(error))
        said = f"{chosen.name} is in lane {len(added['lanes'])} of the form; Run decodes with it too."
        preset = decoding.lanes_edited(model, added)
        return {editor: added, opening.preset: preset, tabs: gr.update(selected="decode"), stage: noted(on_stage, said)}

    outputs = [editor, opening.preset, tabs, stage, *models_tab.said]
    added = models_tab.for_lane.change(shown, [models_tab.for_lane, editor, stage, opening.model], outputs, **QUIET)
    # Only an event in the queue of Gradio triggers the `change` of a state that it sets.
    added.then(lambda: secrets.token_hex(4), None, models_tab.changed, **{**QUIET, "queue": True})


def _adapt_in_training_tab(training: TrainingTab, models_tab: ModelsTab, editor: gr.HTML, tabs: gr.Tabs) -> None:
    """When a card of the Models tab or a lane names a model to adapt, fill the training form and show it."""

    def filled(chosen: Chosen | None, *kept: Any) -> dict:
        if chosen is None:
            return gr.skip()
        return {
            **training.adapt(chosen.name, *kept),
            tabs: gr.update(selected="training"),
            training.timer: gr.Timer(active=True),
        }

    def of_lane(event: gr.EventData) -> dict:
        name = event._data.get("model") if isinstance(event._data, dict) else None
        try:
            return {models_tab.to_adapt: Chosen.of(training.form.access.id_of_loaded(str(name)))}
        except NBDiffError:
            return gr.skip()

    # Only an event in the queue of Gradio triggers the `change` of a state that it sets.
    editor.adapting(of_lane, None, [models_tab.to_adapt, tabs], **{**QUIET, "queue": True})
    outputs = [*training.form.outputs, training.tabs, tabs, training.timer]
    models_tab.to_adapt.change(filled, [models_tab.to_adapt, *training.form.kept], outputs, **QUIET).then(
        training.form.filled_anew, training.form.parts.all(), training.form.following, **QUIET
    )


def _open_in_decode_tab(
    opened: gr.State,
    loaded: LoadedModels,
    options: ServerOptions,
    decoding: DecodeTab,
    tabs: gr.Tabs,
    changed: gr.State,
) -> None:
    """When the training tab has loaded a checkpoint, put it into the lanes of the Decode tab and show that tab."""
    editor, stage, opening = decoding.editor, decoding.stage, decoding.opening

    def shown(checkpoint: OpenedCheckpoint | None, on_stage: Any) -> dict:
        if checkpoint is None:
            return gr.skip()
        lanes = " and ".join(f"{STRATEGY_NAMES[lane.strategy]} with {lane.model}" for lane in checkpoint.lanes)
        return {
            stage: noted(on_stage, f"The lanes of the form are now {lanes}; Run decodes with them."),
            editor: EditorValue.of(loaded, options, list(checkpoint.lanes)).to_json(),
            tabs: gr.update(selected="decode"),
            changed: checkpoint.serial,
            **opening.of_filled(checkpoint.lanes, loaded),
        }

    opened.change(shown, [opened, stage], [editor, tabs, changed, stage, *opening.outputs], **QUIET)


def _theme() -> gr.Theme:
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", radius_size="md", font=FONT, font_mono=MONOSPACE)
    return theme.set(  # enough contrast for the white label and for subdued text, in both colour schemes
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_300",
        block_info_text_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )


def _rest_while_idle(blocks: gr.Blocks) -> None:
    """Let Gradio's queue look for events 20 times a second: it looks 1,000 times, which costs 0.08 of a core without a
    visitor. Only slow events, such as loading a model, go through this queue."""
    blocks._queue.sleep_when_free = blocks._queue.progress_update_sleep_when_free = 0.05


def _reach_loopback_directly() -> None:
    """Gradio connects to its own server over HTTP; that request must not go through a proxy of the environment."""
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, [known, "127.0.0.1", "localhost", "::1"]))
