"""Endpoints for programs: `gradio_client.Client(url).predict(..., api_name="/generate")`."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import gradio as gr
from gradio.context import get_blocks_context
from gradio.utils import get_function_description

from nbdiff_engine import NBDiffError, PromptError
from playground.options import ServerOptions
from playground.race.frames import LaneEvent, race_of
from playground.race.lanes import check
from playground.race.run_spec import RunSpec
from playground.race.verdict import summary
from playground.server.following import replies
from playground.server.lane_models import LaneJob, LaneModels
from playground.server.worker import Logged, QueueFullError, Worker


def build(loaded: LaneModels, worker: Worker, options: ServerOptions) -> None:
    """Register them in the Blocks being built. Their runs wait in the same queue as those of the page."""

    # A generator: Gradio sends each dict, and reads the annotation as the type of one of them.
    def generate(
        prompt: str = "",
        model: str = "",
        strategy: str = "block_diffusion",
        max_new_tokens: int = 96,
        raw: bool = False,
        ignore_eos: bool = False,
        settings: dict | None = None,
        messages: list | None = None,
    ) -> dict:
        """Decode a prompt or a conversation. The text so far is streamed; an error is one sentence.

        Parameters:
            prompt: what the model is asked; a user message if its tokenizer has a chat template.
            model: the name of a loaded model; without it, the first that is loaded.
            strategy: ar, block_diffusion or self_speculative.
            max_new_tokens: the most tokens of the answer.
            raw: use no chat template.
            ignore_eos: decode until max_new_tokens, for comparable timings.
            settings: more settings by name, such as {"block_size": 16, "threshold": 0.9}.
            messages: a conversation instead of a prompt, such as [{"role": "user", "content": "Hi"}].
        Returns:
            {"text", "metrics", "trace"}: the text so far; in the last one the whole answer, its figures, its events.
        """
        try:
            lane = {**(settings or {}), "model": model or loaded.names()[0], "strategy": strategy}
            asked = {"prompt": prompt} if messages is None else _asked(messages, prompt, raw)
            spec = RunSpec.of(**asked, lanes=[lane], max_new_tokens=max_new_tokens, raw=raw, ignore_eos=ignore_eos)
            checked = check(loaded, spec, options)
            run_id = worker.submit(checked.parts, summary)
        except (NBDiffError, QueueFullError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        yield from _answers(worker, run_id, checked.jobs[0], spec.prompt)

    def models() -> list:
        """The models that a lane may name."""
        return list(loaded.names())

    endpoint(generate)
    endpoint(models)


def _asked(messages: Any, prompt: str, raw: bool) -> dict[str, Any]:
    """The fields of a RunSpec for a conversation. Raises PromptError."""
    if prompt:
        raise PromptError("Both prompt and messages are given; give one of them.")
    if raw:
        raise PromptError("raw uses no chat template, and messages need one; give prompt, or leave raw out.")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user":
        raise PromptError('messages must be a list whose last item is {"role": "user", "content": "..."}.')
    return {"prompt": last.get("content"), "history": messages[:-1]}


def _answers(worker: Worker, run_id: str, job: LaneJob, prompt: str) -> Iterator[dict[str, Any]]:
    """The answer while it grows, then with its figures. A client that leaves stops the run. Raises gr.Error."""
    log: list[Logged] = []
    live, text = job.live_text(), ""
    with closing(replies(worker, run_id)) as arriving:
        for reply in arriving:
            log.extend(reply.frames)
            events = (each.frame.event for each in reply.frames if isinstance(each.frame, LaneEvent))
            if new := "".join(map(live, events)):
                text += new
                yield {"text": text, "metrics": None, "trace": None}
    if reply.state != "finished":
        raise gr.Error(reply.message, print_exception=False)
    lane = race_of(log, prompt).lanes[0].to_json()
    yield {"text": lane["text"], "metrics": lane["metrics"], "trace": lane["trace"]}


def endpoint(function: Callable) -> None:
    """Register an endpoint in the Blocks being built, named as the function. The API page shows what its docstring says
    of each parameter, under "Parameters:"."""
    said, parameters, _ = get_function_description(function)
    gr.api(function, api_name=function.__name__, api_description=said)
    registered = list(get_blocks_context().fns.values())[-1]
    for component, words in zip(registered.inputs, parameters.values(), strict=True):
        component._api_info["additional_description"] = words
