"""Probes: the same few prompts, decoded at every checkpoint of a run, to show how parallel decoding improves."""

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

SMALL = 50_000_000  # the most parameters with which a run is probed by default
_DOMAINS = ("math", "knowledge")  # with short answers
_PER_DOMAIN = 4
_LOGGED_ANSWERS = 3
_MAX_NEW_TOKENS = 32


def probes_by_default(model: TrainedModel) -> bool:
    """Whether a run of this model is probed if its recipe does not set it: only a small model, as probes take time."""
    return sum(each.numel() for each in model.network.parameters()) <= SMALL


def probe(folder: RunFolder, model: TrainedModel, step: int) -> Probe:
    """Decode the probes with the current weights, and append a line to the run's probes.jsonl.

    Training is not affected: no random number is drawn, and the state of the network is restored.
    """
    started = time.perf_counter()
    problems = probe_problems()
    with _in_decoding_mode(model) as decoder:
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
    outputs = [job.output(row, row_events) for row, row_events in enumerate(events)]
    logged = list(zip(problems, outputs, events))[:: _PER_DOMAIN // 2][:_LOGGED_ANSWERS]
    found = Probe(
        step=step,
        tokens_per_forward=pooled(output.metrics for output in outputs).tokens_per_forward or 0.0,
        accuracy=_accuracy(problems, outputs),
        problems=len(problems),
        answers=tuple(_answer(job, problem, output, row_events) for problem, output, row_events in logged),
        seconds=time.perf_counter() - started,
    )
    folder.log_probe(found)
    return found


def probe_safely(folder: RunFolder, model: TrainedModel, step: int) -> None:
    """Call `probe`, and only log an error: a failed probe must not end a run."""
    try:
        probe(folder, model, step)
    except Exception as error:  # a network of transformers may raise any exception in decoding
        logger.warning("the probes of step %d failed: %s", step, str(error).split("\n", 1)[0][:200])


def probe_problems() -> list[Problem]:
    """The problems of the probes. They are in the test split of the project's corpus, so no run trains on them."""
    return [problem for domain in _DOMAINS for problem in held_out(domain, _PER_DOMAIN)]


@contextmanager
def _in_decoding_mode(model: TrainedModel) -> Iterator[BlockModel]:
    """Make the network in training usable for decoding inside the `with` block."""
    network = model.network
    was_training, attention = network.training, network.config._attn_implementation
    # Compiled modules are replaced, because decoding would compile them again for each of its shapes.
    compiled = {module: call for module in network.modules() if (call := module._compiled_call_impl) is not None}
    try:
        for module in compiled:
            module._compiled_call_impl = None
        if attention in ("flex_attention", DOCUMENTS):  # only training supports these
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


def _answer(job: DecodeJob, problem: Problem, output: Output, events: Sequence[DecodeEvent]) -> ProbeAnswer:
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
