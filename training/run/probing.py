"""Probes: the same few prompts, decoded at every checkpoint of a run, to show how parallel decoding improves.

They are problems of the project's corpus if the run trains on that, else the first held-out documents.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from nbdiff_engine import BlockModel, prepare
from nbdiff_engine.generate import DecodeJob, Output
from nbdiff_engine.tasks import Problem, check, held_out
from nbdiff_engine.trace.events import DecodeEvent, Denoise, Finish, Verify
from nbdiff_engine.trace.metrics import pooled
from training.data.data_settings import CORPUS
from training.data.documents import Document
from training.model.base import TrainedModel
from training.objective.document_attention import DOCUMENTS
from training.recipe.recipe import Recipe
from training.run.log_lines import Probe, ProbeAnswer
from training.run.run_folder import RunFolder
from training.run.step_reader import StepReader

logger = logging.getLogger(__name__)

SMALL = 50_000_000  # the most parameters with which a run is probed by default
_DOMAINS = ("math", "knowledge")  # with short answers
_PER_DOMAIN = 4
_LOGGED_ANSWERS = 3
_MAX_NEW_TOKENS = 32
_DOCUMENTS = 4  # held-out documents that are probed
_READ = 16  # and how many are read to find them: those with a long prompt are left out
_LONGEST_PROMPT = 1024  # tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """A probe. problem: for problems of the corpus. reference: the document's own answer, for held-out documents."""

    shown: str
    given: str | list[int]  # text, or token ids
    problem: Problem | None = None
    reference: str | None = None


def probes_by_default(model: TrainedModel) -> bool:
    """Whether a run of this model is probed if its recipe does not set it: only a small model, as probes take time."""
    return sum(each.numel() for each in model.network.parameters()) <= SMALL


def probe(folder: RunFolder, model: TrainedModel, prompts: Sequence[Prompt], step: int) -> Probe:
    """Decode the probes with the current weights, and append a line to the run's probes.jsonl.

    Training is not affected: no random number is drawn, and the state of the network is restored.
    """
    started = time.perf_counter()
    with _in_decoding_mode(model) as decoder:
        job = prepare(
            decoder,
            [prompt.given for prompt in prompts],
            max_new_tokens=_MAX_NEW_TOKENS,
            trace=True,
            **({} if model.spec else {"strategy": "ar"}),
        )
        events: list[list[DecodeEvent]] = [[] for _ in prompts]
        for event in job.events():
            events[event.row].append(event)
    outputs = [job.output(row, row_events) for row, row_events in enumerate(events)]
    logged = list(zip(prompts, outputs, events))[:: max(1, len(prompts) // 4)][:_LOGGED_ANSWERS]
    found = Probe(
        step=step,
        tokens_per_forward=pooled(output.metrics for output in outputs).tokens_per_forward or 0.0,
        accuracy=_accuracy(prompts, outputs),
        problems=len(prompts),
        answers=tuple(_answer(job, prompt, output, row_events) for prompt, output, row_events in logged),
        seconds=time.perf_counter() - started,
    )
    folder.log_probe(found)
    return found


def probe_safely(folder: RunFolder, model: TrainedModel, prompts: Sequence[Prompt], step: int) -> Probe | None:
    """Call `probe`, and only log an error: a failed probe must not end a run."""
    try:
        return probe(folder, model, prompts, step)
    except Exception as error:  # a network of transformers may raise any exception in decoding
        logger.warning("the probes of step %d failed: %s", step, str(error).split("\n", 1)[0][:200])
        return None


def accepted_drafts(model: TrainedModel, prompts: Sequence[Prompt]) -> float | None:
    """Mean number of accepted drafts per verify pass of self-speculation; None if there was no verify pass.

    Training is not affected, as in `probe`.
    """
    with _in_decoding_mode(model) as decoder:
        given = [prompt.given for prompt in prompts]
        job = prepare(decoder, given, strategy="self_speculative", max_new_tokens=_MAX_NEW_TOKENS)
        accepted = [event.accepted for event in job.events() if isinstance(event, Verify)]
    return sum(accepted) / len(accepted) if accepted else None


def accepted_drafts_safely(model: TrainedModel, prompts: Sequence[Prompt], step: int) -> float | None:
    """Call `accepted_drafts`, and only log an error. None for a model without self-speculation."""
    spec = model.spec
    if spec is None or spec.context != "token_causal" or not spec.token_shift:  # there is no AR pass to verify with
        return None
    try:
        return accepted_drafts(model, prompts)
    except Exception as error:  # as in `probe_safely`
        logger.warning("the acceptance of step %d was not measured: %s", step, str(error).split("\n", 1)[0][:200])
        return None


def probe_prompts(recipe: Recipe, model: TrainedModel, reader: StepReader) -> list[Prompt]:
    """The probes of a run: no run trains on them. Empty if there are no held-out documents that fit."""
    if recipe.data.source == CORPUS:
        problems = [problem for domain in _DOMAINS for problem in held_out(domain, _PER_DOMAIN)]
        return [Prompt(problem.prompt, problem.prompt, problem) for problem in problems]
    longest = min(_LONGEST_PROMPT, model.context_length - _MAX_NEW_TOKENS)
    found: dict[tuple[int, ...], Prompt] = {}  # a prompt with several answers is one probe
    for document in reader.held_out_documents(_READ):
        prompt = _prompt_of(document, model)
        found.setdefault(tuple(prompt.given), prompt)
    return [prompt for prompt in found.values() if 0 < len(prompt.given) <= longest][:_DOCUMENTS]


def _prompt_of(document: Document, model: TrainedModel) -> Prompt:
    """What comes before the first answer of a document, or the beginning of a plain text."""
    ids = list(document.ids)
    start, stop = document.turns[0] if document.turns else (min(_MAX_NEW_TOKENS, len(ids) // 2), len(ids))
    decode = model.tokenizer.decode
    return Prompt(
        shown=decode(ids[:start], skip_special_tokens=True).strip(),
        given=ids[:start],
        reference=decode(ids[start : min(stop, start + _MAX_NEW_TOKENS)], skip_special_tokens=True),
    )


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


def _accuracy(prompts: Sequence[Prompt], outputs: Sequence[Output]) -> float | None:
    verdicts = [
        check(prompt.problem, output.text, run_code=False).correct
        for prompt, output in zip(prompts, outputs)
        if prompt.problem is not None
    ]
    return sum(map(bool, verdicts)) / len(verdicts) if verdicts else None


def _answer(job: DecodeJob, prompt: Prompt, output: Output, events: Sequence[DecodeEvent]) -> ProbeAnswer:
    passes: dict[int, int] = {}
    for event in events:
        if not isinstance(event, Finish):
            for fixed in event.fixed:
                passes[fixed.position] = event.step + 1 if isinstance(event, Denoise) else 0
    texts = shown_texts(job, output.token_ids)
    return ProbeAnswer(
        prompt=prompt.shown,
        text=output.text,
        tokens_per_forward=output.metrics.tokens_per_forward or 0.0,
        forwards=output.metrics.decode_forwards,
        tokens=tuple((text, passes.get(place, 0)) for place, text in enumerate(texts)),
        trace=output.trace.to_json(),
        reference=prompt.reference,
    )


def shown_texts(job: DecodeJob, token_ids: Sequence[int]) -> list[str]:
    """The text of each token of an answer, for a reader: what it adds to the answer, or the name of a special token.

    A character of several tokens is the text of the last of them; the others are shown as their bytes, as ⟨E7 A7⟩.
    """
    names = job.pieces_of(set(token_ids) & job.plan.texts.special_ids)
    parts = {token: f"⟨{each.hex(' ').upper()}⟩" for token, each in job.partial_bytes_of(set(token_ids)).items()}
    signs = {**parts, **names}
    return [text or signs.get(token, "") for token, text in zip(token_ids, job.answer_pieces(token_ids))]
