"""The playground as a whole: the model, its worker, the page around the tabs, and the server."""

import html
import os
import threading

import gradio as gr

from nbdiff_engine import BlockModel, NBDiffError
from playground import address, api
from playground.models import ModelsTab
from playground.options import Options, StartError
from playground.race import lanes_editor
from playground.race.decode_tab import DecodeTab
from playground.race.lanes import guarded_warm_up
from playground.server import web_components
from playground.server.loaded_models import Shelf, first_models
from playground.server.worker import Limits, Worker
from playground.sweep.block_sizes_tab import BlockSizesTab
from playground.training_tab.opening import OpenedCheckpoint
from playground.training_tab.tab import TrainingTab
from training.jobs import Jobs

TITLE = "NBDiff playground"
# What the system has: no font is fetched from anywhere.
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


class Playground:
    """A loaded model and its page. `launch` serves it until it is interrupted."""

    def __init__(self, options: Options):
        """Raises StartError for a model that cannot be loaded, or cannot be asked."""
        try:
            self.shelf = first_models(options)
        except NBDiffError as error:
            raise StartError(str(error)) from error
        name = self.shelf.names()[0]
        self.options = options
        self.worker = Worker(
            Limits(
                queue=options.queue,
                wall_seconds=options.wall_seconds,
                lease_seconds=options.lease_seconds,
                log_bytes=int(options.trace_mb * 1e6),
            ),
            warm_up=lambda: guarded_warm_up(self.shelf, name),
        )
        self.blocks = _page(self.shelf, self.worker, options)

    def launch(self) -> None:
        """Serve the page, print its address, and return after Ctrl+C."""
        options = self.options
        _reach_loopback_directly()
        self.worker.start()
        try:
            self.blocks.launch(
                server_name=f"[{options.host}]" if ":" in options.host else options.host,  # as a URL has it
                server_port=options.port,
                auth=options.auth,
                theme=_theme(),
                css=web_components.read("page.css"),
                share=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                allowed_paths=[],
                # Training data alone is uploaded; Gradio's route for it stays open where there is none.
                max_file_size="512mb" if options.trains else "1mb",
                quiet=True,
                prevent_thread_lock=True,
            )
            print(f"The playground is on {self.blocks.local_url.rstrip('/')} (Ctrl+C ends it)", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        except OSError:
            address.require_free(options.host, options.port)  # taken since we looked, most likely: say so
            raise
        finally:
            self.worker.close()
            self.blocks.close(verbose=False)


def _page(shelf: Shelf, worker: Worker, options: Options) -> gr.Blocks:
    model = shelf.get(shelf.names()[0])
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_header(model), js_on_load=None, apply_default_css=False, elem_id="header")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Decode", id="decode") as decode:
                editor = DecodeTab(shelf, model, worker, options).build(blocks)
            with gr.Tab("Block sizes", id="block-sizes") as block_sizes:
                sizes = BlockSizesTab(shelf, worker, options)
                sizes.build(blocks)
            with gr.Tab("Models", id="models") as models:
                shelved = ModelsTab(shelf, worker, options)
                changed = shelved.build(blocks)
            jobs = Jobs() if options.trains else None
            if jobs is not None:
                with gr.Tab("Training", id="training") as own:
                    opened = gr.State(None)
                    training = TrainingTab(shelf, worker, options, jobs)
                    training.build(opened)
        if jobs is not None:
            training.wire(blocks, tabs, own, [decode, block_sizes, models])
            _race_what_is_opened(opened, shelf, options, editor, tabs, changed)
        # What one tab has loaded or dropped is news to the others.
        quietly = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        changed.change(lambda shown: lanes_editor.refreshed(shelf, options, shown), editor, editor, **quietly)
        changed.change(sizes.refreshed, sizes.lists, sizes.lists, **quietly)
        changed.change(shelved.refreshed, None, shelved.lists, **quietly)
        api.build(shelf, worker, options)
        sizes.build_api()
    return blocks


def _race_what_is_opened(
    opened: gr.State, shelf: Shelf, options: Options, editor: gr.HTML, tabs: gr.Tabs, changed: gr.State
) -> None:
    """A checkpoint that the training tab has loaded goes to the lanes of the decode tab, and the page there."""

    def shown(checkpoint: OpenedCheckpoint | None) -> dict:
        if checkpoint is None:
            return gr.skip()
        return {
            editor: lanes_editor.value(shelf, options, list(checkpoint.lanes)),
            tabs: gr.update(selected="decode"),
            changed: checkpoint.serial,
        }

    opened.change(shown, opened, [editor, tabs, changed], queue=False, show_progress="hidden", api_visibility="private")


def _theme() -> gr.Theme:
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="slate", radius_size="md", font=FONT, font_mono=MONOSPACE)
    return theme.set(  # dark enough for its white label, and quiet text that can still be read, in both schemes
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


def _header(model: BlockModel) -> str:
    about = html.escape(f"{model.name}, {_about(model)}")
    what = "Watch a language model write several tokens at once, beside the same model writing one by one"
    return f"<header><h1>{TITLE}</h1><p>{what}: {about}</p></header>"


def _about(model: BlockModel) -> str:
    size = model.parameters
    parameters = f"{size / 1e9:.1f}B" if size >= 1e9 else f"{size / 1e6:.1f}M"
    blocks = "autoregressive only" if model.spec is None else f"trained for blocks of {model.spec.block_size}"
    return f"{parameters} parameters, {blocks}, {str(model.dtype).removeprefix('torch.')} on {model.device}"


def _reach_loopback_directly() -> None:
    """Gradio greets its own server over HTTP; a proxy set in the environment must not stand in between."""
    for name in ("NO_PROXY", "no_proxy"):
        known = os.environ.get(name, "")
        os.environ[name] = ",".join(filter(None, [known, "127.0.0.1", "localhost", "::1"]))
