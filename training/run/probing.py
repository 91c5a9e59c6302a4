"""The same few prompts, denoised by a run at each of its checkpoints: how a model learns to decode in parallel."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nbdiff_engine import BlockModel, prepare
from nbdiff_engine.generate import DecodeJob, Output
from nbdiff_engine.tasks import Problem, check, held_out
from nbdiff_engine.trace.events import DecodeEvent, Denoise, Finish
from nbdiff_engine.trace.metrics import pooled
from training.model.base import TrainedModel
from training.objective.document_attention import DOCUMENTS
from training.run.log_lines import Probe, ProbeAnswer
from training.run.run_folder import RunFolder

logger = logging.getLogger(__name__)

SMALL = 50_000_000  # weights up to which a run is probed by default
_DOMAINS = ("math", "knowledge")  # of short answers
_OF_EACH = 4
_SHOWN = 3
_MAX_NEW_TOKENS = 32


def probes_by_default(model: TrainedModel) -> bool:
    """Whether a run of this model is probed where its recipe leaves that open: while it costs next to nothing."""
    return sum(each.numel() for each in model.network.parameters()) <= SMALL


def probe(folder: RunFolder, model: TrainedModel, step: int) -> Probe:
    """Denoise the probes with the weights as they are, and append a line to the run's probes.jsonl.

    Nothing that training depends on is changed: no random number is drawn, and the network is left as it was.
    """
    started = time.perf_counter()
    problems = probe_problems()
    with _decoding(model) as decoder:
        job = prepare(
            decoder,
            [problem.prompt for problem in problems],
            max_new_tokens=_MAX_NEW_TOKENS,
            trace=True,
            **({} if model.spec else {"strategy": "ar"}),
        )
        events: list[list[DecodeEvent]] = [[] for _ in problems]
        for event in job.events():
            events[event.row].append(event)
    outputs = [job.output(row, own) for row, own in enumerate(events)]
    found = Probe(
        step=step,
        tokens_per_forward=pooled(output.metrics for output in outputs).tokens_per_forward or 0.0,
        accuracy=_accuracy(problems, outputs),
        problems=len(problems),
        answers=tuple(
            _shown(job, problem, output, own)
            for problem, output, own in list(zip(problems, outputs, events))[:: _OF_EACH // 2][:_SHOWN]
        ),
        seconds=time.perf_counter() - started,
    )
    folder.log_probe(found)
    return found


def probe_safely(folder: RunFolder, model: TrainedModel, step: int) -> None:
    """`probe`, where a probe that fails is no reason to end a run."""
    try:
        probe(folder, model, step)
    except Exception as error:  # whatever a network of any family may raise when it is decoded
        logger.warning("the probes of step %d failed: %s", step, str(error).split("\n", 1)[0][:200])


def probe_problems() -> list[Problem]:
    """What is asked at each checkpoint. No training run of the project's corpus has seen any of them."""
    return [problem for domain in _DOMAINS for problem in held_out(domain, _OF_EACH)]


@contextmanager
def _decoding(model: TrainedModel) -> Iterator[BlockModel]:
    """The network under training as one that decodes, for a while."""
    network = model.network
    was_training, attention = network.training, network.config._attn_implementation
    # Compiled for the shapes of training; decoding would compile it again for each of its shapes.
    compiled = {module: call for module in network.modules() if (call := module._compiled_call_impl) is not None}
    try:
        for module in compiled:
            module._compiled_call_impl = None
        if attention in ("flex_attention", DOCUMENTS):  # of training alone
            network.set_attn_implementation("sdpa")
        yield BlockModel(network, model.tokenizer, model.spec, model.name, model.bos_before_template)
    finally:
        if attention in ("flex_attention", DOCUMENTS):
            network.set_attn_implementation(attention)
        for module, call in compiled.items():
            module._compiled_call_impl = call
        network.train(was_training)


def _accuracy(problems: Sequence[Problem], outputs: Sequence[Output]) -> float:
    verdicts = [check(problem, output.text, run_code=False).correct for problem, output in zip(problems, outputs)]
    return sum(map(bool, verdicts)) / len(verdicts)


def _shown(job: DecodeJob, problem: Problem, output: Output, events: Sequence[DecodeEvent]) -> ProbeAnswer:
    passes: dict[int, int] = {}
    for event in events:
        if not isinstance(event, Finish):
            for fixed in event.fixed:
                passes[fixed.position] = event.step + 1 if isinstance(event, Denoise) else 0
    names = job.pieces_of(set(output.token_ids) & job.plan.texts.special_ids)
    # A special token adds no text; its name is shown.
    texts = [text or names.get(token, "") for token, text in zip(output.token_ids, job.answer_pieces(output.token_ids))]
    return ProbeAnswer(
        prompt=problem.prompt,
        text=output.text,
        tokens_per_forward=output.metrics.tokens_per_forward or 0.0,
        forwards=output.metrics.decode_forwards,
        tokens=tuple((text, passes.get(place, 0)) for place, text in enumerate(texts)),
        trace=output.trace.to_json(),
    )
