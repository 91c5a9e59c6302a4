"""Endpoints for programs: `gradio_client.Client(url).predict(..., api_name="/generate")`."""

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.options import ServerOptions
from playground.race.frames import race_of
from playground.race.lanes import check
from playground.race.run_spec import RunSpec
from playground.race.verdict import summary
from playground.server.following import outcome
from playground.server.loaded_models import LoadedModels
from playground.server.worker import QueueFullError, Worker


def build(loaded: LoadedModels, worker: Worker, options: ServerOptions) -> None:
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
        """Decode a prompt. raw: use no chat template. ignore_eos: decode until max_new_tokens. settings: more fields
        of a lane, such as {"block_size": 16, "threshold": 0.9}.

        Returns {"text", "metrics", "trace"}. An error is one sentence.
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

    gr.api(generate, api_name="generate")
    gr.api(models, api_name="models")
