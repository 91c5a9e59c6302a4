"""Endpoints for programs: `gradio_client.Client(url).predict(..., api_name="/generate")`."""

from collections.abc import Callable

import gradio as gr
from gradio.context import get_blocks_context
from gradio.utils import get_function_description

from nbdiff_engine import NBDiffError
from playground.options import ServerOptions
from playground.race.frames import race_of
from playground.race.lanes import check
from playground.race.run_spec import RunSpec
from playground.race.verdict import summary
from playground.server.following import outcome
from playground.server.lane_models import LaneModels
from playground.server.worker import QueueFullError, Worker


def build(loaded: LaneModels, worker: Worker, options: ServerOptions) -> None:
    """Register them in the Blocks being built. Their runs wait in the same queue as those of the page."""

    def generate(
        prompt: str,
        model: str = "",
        strategy: str = "block_diffusion",
        max_new_tokens: int = 96,
        raw: bool = False,
        ignore_eos: bool = False,
        settings: dict | None = None,
    ) -> dict:
        """Decode a prompt. An error is one sentence.

        Parameters:
            prompt: what the model is asked; a user message if its tokenizer has a chat template.
            model: the name of a loaded model; without it, the first that is loaded.
            strategy: ar, block_diffusion or self_speculative.
            max_new_tokens: the most tokens of the answer.
            raw: use no chat template.
            ignore_eos: decode until max_new_tokens, for comparable timings.
            settings: more settings by name, such as {"block_size": 16, "threshold": 0.9}.
        Returns:
            {"text", "metrics", "trace"}: the answer, its figures, and its events.
        """
        try:
            lane = {**(settings or {}), "model": model or loaded.names()[0], "strategy": strategy}
            spec = RunSpec.of(
                prompt=prompt, lanes=[lane], max_new_tokens=max_new_tokens, raw=raw, ignore_eos=ignore_eos
            )
            run_id = worker.submit(check(loaded, spec, options).parts, summary)
        except (NBDiffError, QueueFullError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        reply = outcome(worker, run_id)
        if reply.state != "finished":
            raise gr.Error(reply.message, print_exception=False)
        lane = race_of(reply.frames, prompt).lanes[0].to_json()
        return {"text": lane["text"], "metrics": lane["metrics"], "trace": lane["trace"]}

    def models() -> list:
        """The models that a lane may name."""
        return list(loaded.names())

    endpoint(generate)
    endpoint(models)


def endpoint(function: Callable) -> None:
    """Register an endpoint in the Blocks being built, named as the function. The API page shows what its docstring says
    of each parameter, under "Parameters:"."""
    said, parameters, _ = get_function_description(function)
    gr.api(function, api_name=function.__name__, api_description=said)
    registered = list(get_blocks_context().fns.values())[-1]
    for component, words in zip(registered.inputs, parameters.values(), strict=True):
        component._api_info["additional_description"] = words
