"""The endpoint "sweep" for programs."""

import gradio as gr

from nbdiff_engine import NBDiffError
from playground.api import endpoint
from playground.options import ServerOptions
from playground.server.following import outcome
from playground.server.loaded_models import LoadedModels
from playground.server.worker import QueueFullError, Worker
from playground.sweep.sweep import BLOCK_SIZES, SweepSpec, check_sweep
from playground.sweep.sweep_rows import table


def build(loaded: LoadedModels, worker: Worker, options: ServerOptions) -> None:
    """Register it in the Blocks being built."""

    def sweep(
        prompt: str = "",
        domain: str = "",
        problems: int = 8,
        models: list | None = None,
        block_sizes: list | None = None,
        thresholds: list | None = None,
        policies: list | None = None,
        max_new_tokens: int = 96,
    ) -> list:
        """Decode a prompt, or held-out problems of a domain, with each block size. An error is one sentence.

        Parameters:
            prompt: one prompt to decode with every setting; leave it empty for held-out problems.
            domain: the domain of the held-out problems: math, code, knowledge or story.
            problems: the number of held-out problems.
            models: names of loaded models, one series each; without them, the first that is loaded.
            block_sizes: the block sizes to compare; 1 is AR.
            thresholds: confidence thresholds, one series each.
            policies: unmasking policies, one series each; not together with thresholds.
            max_new_tokens: the most tokens of an answer.
        Returns:
            One row for each setting. Shares are from 0 to 1.
        """
        try:
            spec = SweepSpec.of(
                models=models or list(loaded.names())[:1],
                block_sizes=BLOCK_SIZES if block_sizes is None else block_sizes,
                thresholds=thresholds or (),
                policies=policies or (),
                prompt=prompt,
                domain=domain or None,
                problems=problems,
                max_new_tokens=max_new_tokens,
            )
            run_id = worker.submit(check_sweep(loaded, spec, options).parts)
        except (NBDiffError, QueueFullError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        reply = outcome(worker, run_id)
        if reply.state != "finished":
            raise gr.Error(reply.message, print_exception=False)
        return [row.to_json() for row in table(each.frame for each in reply.frames)]

    endpoint(sweep)
