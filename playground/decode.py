"""The decode tab: a prompt, Run, Stop, and the lanes that fill as the worker decodes."""

import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nbdiff_engine import BlockModel, NBDiffError
from playground import web
from playground.frames import summary_frame
from playground.lanes import Form, check, lane_kinds
from playground.options import Options
from playground.worker import UNKNOWN, QueueFullError, Worker

# Held-out problems, one or two of each domain: nano was not trained on any of them.
EXAMPLES = (
    "Tell me a story in the forest with Mia, a purple wagon and a mouse.",
    "Zoe has 43 dollars. She pays 7 dollars for toys. She gets 6 dollars from Eva. How many dollars does Zoe have now?",
    "Create a Python function find(message) that returns message in lower case cut into words.",
    "Name the money of the country whose capital is Athens.",
    "Make up a story: Max has a silver kite and meets a horse on the farm.",
)
MAX_NEW_TOKENS = 96  # to begin with; Options has the limit

RUN_ID = Field(max_length=64)


class Poll(BaseModel):
    """What the page sends to read on. viewer: an id that the page has made up for itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    run: str = RUN_ID
    viewer: str = Field(min_length=1, max_length=64)
    cursor: int = 0


class Shown(BaseModel):
    """The part of the stage's value that names its run."""

    run: str | None = RUN_ID


def build_tab(model: BlockModel, worker: Worker, options: Options) -> None:
    """Lay out the tab in the Blocks being built."""
    with gr.Column(elem_id="ask"):
        prompt = gr.Textbox(
            label="Prompt",
            value=EXAMPLES[0],
            lines=2,
            max_lines=10,
            placeholder="Ask something. Shift + Enter runs it.",
        )
        # Shown whole as buttons that fill the prompt; nothing is run or cached ahead.
        gr.Examples([[text] for text in EXAMPLES], inputs=prompt, label="Examples", api_visibility="private")
        with gr.Row(elem_id="controls"):
            block_size, threshold = _diffusion_fields(model)
            max_new_tokens = gr.Number(
                min(MAX_NEW_TOKENS, options.max_new_tokens), label="Max new tokens", min_width=110
            )
            seed = gr.Number(0, label="Seed", min_width=110)
            run = gr.Button("Run", variant="primary", min_width=110, elem_id="run")
            stop = gr.Button("Stop", variant="stop", interactive=False, min_width=110, elem_id="stop")
    stage = web.stage(_value(model), _transport(worker))

    asked = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    gr.on(
        [run.click, prompt.submit],
        partial(_start, model, worker, options),
        inputs=[stage, prompt, block_size, threshold, max_new_tokens, seed],
        outputs=[stage, stop],
        **asked,
    )
    stop.click(partial(_stop, worker), inputs=stage, outputs=None, **asked)
    stage.ended(partial(_ended, worker), inputs=stage, outputs=stop, **asked)


def _diffusion_fields(model: BlockModel) -> tuple[gr.Number, gr.Number]:
    """Block size and threshold, as the checkpoint has them. No bounds of Gradio's: the server says what is wrong."""
    spec = model.spec
    block_size = gr.Number(spec and spec.block_size, label="Block size", min_width=110, visible=spec is not None)
    threshold = gr.Number(
        spec and spec.threshold, label="Threshold", step=0.05, min_width=110, visible=spec is not None
    )
    return block_size, threshold


def _value(model: BlockModel, **news: Any) -> dict[str, Any]:
    """The stage's value. `serial` makes every one new, or the page would not notice the same message twice."""
    lanes = [{"name": kind.name, "about": ""} for kind in lane_kinds(model)]
    return {"run": None, "lanes": lanes, "error": "", "note": "", "serial": secrets.token_hex(4), **news}


def _start(
    model: BlockModel, worker: Worker, options: Options, shown: Any, *fields: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Queue what the visitor asks for, or say in one sentence why not; a run that is under way then goes on."""
    try:
        request = check(model, Form(*fields), options)
        names = [lane.name for lane in request.lanes]
        run_id = worker.submit(request.lanes, partial(summary_frame, names))
    except (NBDiffError, QueueFullError) as error:
        return _value(model, run=_run_of(shown), error=str(error)), gr.skip()
    lanes = [{"name": name, "about": about} for name, about in zip(names, request.abouts)]
    return _value(model, run=run_id, lanes=lanes, note=request.note), gr.update(interactive=True)


def _stop(worker: Worker, shown: Any) -> None:
    if (run_id := _run_of(shown)) is not None:
        worker.stop(run_id)


def _ended(worker: Worker, shown: Any) -> dict[str, Any]:
    """Stop is there while a run is live. Asked of the worker: a new run may have begun since the page said so."""
    run_id = _run_of(shown)
    return gr.update(interactive=run_id is not None and worker.is_live(run_id))


def _run_of(shown: Any) -> str | None:
    """The run on the stage, as the page says; None for anything that is no such value."""
    try:
        return Shown.model_validate(shown).run
    except ValidationError:
        return None


def _transport(worker: Worker) -> tuple[Callable, Callable]:
    """The functions that stage.js calls as server.poll and server.leave."""

    # Coroutines, although nothing in them waits: Gradio would take a thread of its pool for each call otherwise.
    async def poll(message: Any) -> dict[str, Any]:
        try:
            asked = Poll.model_validate(message)
        except ValidationError:
            return UNKNOWN.to_json()
        return worker.poll(asked.run, asked.viewer, asked.cursor).to_json()

    async def leave(message: Any) -> None:
        try:
            asked = Poll.model_validate(message)
        except ValidationError:
            return
        worker.leave(asked.run, asked.viewer)

    return poll, leave
