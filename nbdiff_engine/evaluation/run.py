"""Accuracy and speed of models under decode settings, on the same problems.

Each prompt, or each batch of prompts, is decoded under all settings before the next one (see `answering`). The answers
of a model are judged after all of them are decoded, outside the timing.
"""

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nbdiff_engine.decoding.plan import DecodePlan, Note
from nbdiff_engine.decoding.prompts import encode
from nbdiff_engine.decoding.settings import DecodeSettings
from nbdiff_engine.errors import PromptError, SettingError, brief
from nbdiff_engine.evaluation.answering import BatchAnswers, answers_in_turn
from nbdiff_engine.evaluation.aup import MOST_LOST
from nbdiff_engine.evaluation.curves import Measured, curves_of
from nbdiff_engine.evaluation.journal import Journal, digest, engine_digest, weights_digest
from nbdiff_engine.evaluation.machine_facts import MachineFacts, machine_facts
from nbdiff_engine.evaluation.pairs import Answered, against_own_ar, by_verdicts
from nbdiff_engine.evaluation.report import Answer, Comparison, Definitions, Evaluation, ModelReport, SettingReport
from nbdiff_engine.evaluation.settings_grid import AR, DEFAULT_SETTINGS, MAX_NEW_TOKENS, label_of
from nbdiff_engine.generate import Output, prepare
from nbdiff_engine.model.block_model import BlockModel
from nbdiff_engine.model.checkpoint_folders import bundled_models
from nbdiff_engine.model.threads import choose_threads
from nbdiff_engine.tasks import Problem, Verdict, check

MOST_ROWS = 1024  # of a batch; this limit catches typing mistakes, it does not guarantee enough memory


def evaluate(
    models: Sequence[BlockModel],
    problems: Sequence[Problem],
    settings: Sequence[DecodeSettings] | None = None,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 1,
    run_code: bool | None = None,
    journal: Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Answer the problems with every model under every setting that fits the model.

    settings: DEFAULT_SETTINGS unless given. A setting that does not fit a model is left out for that model. If AR is
        missing, it is added at the front: the other settings are compared with it. A setting's own max_new_tokens
        takes precedence over the argument; traces are never recorded.
    batch_size: prompts per batch. 1 measures the time that one reader waits. See `batches_of`.
    run_code: whether programs in the answers are run to judge them. None: only those of bundled models.
    journal: a file to which each finished answer is written. resume: reuse the answers in this file.
    progress: show progress bars on standard error.

    Raises SettingError or PromptError before decoding starts, and NBDiffError for a journal that cannot be resumed or
    a batch that does not fit into the memory. Sets torch's thread count for each model and restores it at the end.
    """
    problems = list(problems)
    if not models or not problems:
        raise SettingError(f"There is no {'problem' if models else 'model'} to evaluate; give at least one.")
    check_batch_size(batch_size)
    entries = [_Entry.of(model, problems, settings, max_new_tokens, batch_size) for model in models]
    _check_asked(entries, settings)
    for note in dict.fromkeys(note for entry in entries for note in entry.notes()):
        warnings.warn(str(note), stacklevel=2)
    threads = torch.get_num_threads()
    machine = machine_facts()
    reports: list[ModelReport] = []
    comparisons: list[Comparison] = []
    asked = digest([[each.domain, each.prompt, each.answer, each.facts, each.rule] for each in problems])
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(torch.set_num_threads, threads)
        kept = None
        if journal is not None:
            fingerprint = {**_fingerprint(entries, machine), "batch size": batch_size, "set of problems": asked}
            kept = Journal.open(journal, fingerprint, machine, resume)
            at_the_end.callback(kept.close)
            machine = kept.machine
        for entry in entries:
            torch.set_num_threads(threads)
            chosen = _threads_for(entry.model, kept)
            outputs = entry.decode(problems, kept, progress)
            code = entry.model.name in bundled_models() if run_code is None else run_code
            entry.judge(problems, outputs, code, progress)
            reports.append(entry.report(problems, chosen, code))
            comparisons += entry.comparisons(problems)
            first = entries[0]
            if entry is not first and entry.baseline is not None and first.baseline is not None:
                comparisons.append(by_verdicts(entry.answered[entry.baseline], first.answered[first.baseline]))
    domains = [problem.domain for problem in problems]
    measured = [
        Measured(report.name, each.setting, each.settings, each.overall.tokens_per_forward, each.overall.accuracy)
        for report in reports
        for each in report.results
    ]
    return Evaluation(
        machine=machine,
        problems={domain: domains.count(domain) for domain in dict.fromkeys(domains)},
        max_new_tokens=max_new_tokens,
        models=tuple(reports),
        comparisons=tuple(comparisons),
        curves=tuple(curves_of(measured)),
        batch_size=batch_size,
        problems_digest=asked,
        definitions=_definitions(batch_size),
    )


def check_batch_size(size: int) -> None:
    """Raises SettingError for a batch size that is out of range."""
    if not 1 <= size <= MOST_ROWS:
        raise SettingError(f"batch_size is {brief(size)}; it must be from 1 to {MOST_ROWS}.")


def batches_of(problems: Sequence[Problem], prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """The problems by index, in batches of at most `size`.

    With a size of 1 the problems keep their order. Otherwise a batch has prompts of similar lengths, for little
    padding, and of one domain, so that each domain has its own time. The batches with the longest prompts come first:
    if they fit into the memory, the later ones also do.
    """
    if size == 1:
        return [[index] for index in range(len(problems))]
    by_domain: dict[str, list[int]] = {}
    for index in sorted(range(len(problems)), key=lambda index: -len(prompts[index])):
        by_domain.setdefault(problems[index].domain, []).append(index)
    batches = [own[start : start + size] for own in by_domain.values() for start in range(0, len(own), size)]
    return sorted(batches, key=lambda batch: -len(prompts[batch[0]]))


@dataclass(slots=True)
class _Entry:
    """A model in the evaluation: its prompts and settings, and its answers under each setting."""

    model: BlockModel
    prompts: list[list[int]]
    batches: list[list[int]]  # problems by index
    labels: list[str]
    settings: list[DecodeSettings]
    plans: list[DecodePlan]  # the same, with the values that the checkpoint's spec fills in
    baseline: int | None  # the index of AR in the settings; None for a model without AR decoding
    answered: list[Answered]
    not_judged: str | None = None  # why the first answer without a verdict was not judged

    @classmethod
    def of(
        cls,
        model: BlockModel,
        problems: Sequence[Problem],
        settings: Sequence[DecodeSettings] | None,
        limit: int,
        batch_size: int,
    ) -> "_Entry":
        """Check the prompts and settings for one model, without decoding. Raises SettingError or PromptError."""
        chosen = [each for each in settings or DEFAULT_SETTINGS if _fits(model, each)]
        if _fits(model, AR) and all(each.strategy != "ar" for each in chosen):
            chosen.insert(0, AR)
        asked = [
            DecodeSettings.of(**{"max_new_tokens": limit, **each.model_dump(exclude_unset=True), "trace": False})
            for each in chosen
        ]
        prompts = [_encoded(model, number, problem) for number, problem in enumerate(problems, start=1)]
        return cls(
            model=model,
            prompts=prompts,
            batches=batches_of(problems, prompts, batch_size),
            labels=[label_of(each) for each in chosen],
            settings=asked,
            plans=[prepare(model, prompts[0], **each.model_dump(exclude_unset=True)).plan for each in asked],
            baseline=next((index for index, each in enumerate(chosen) if each.strategy == "ar"), None),
            answered=[],
        )

    def filled_settings(self) -> list[dict[str, Any]]:
        """Each setting as JSON, with the values that the checkpoint's spec fills in."""
        return [plan.settings.model_dump(mode="json") for plan in self.plans]

    def notes(self) -> list[Note]:
        """Remarks about the settings of this model, for the caller."""
        return [note for plan in self.plans for note in plan.notes]

    def decode(self, problems: Sequence[Problem], journal: Journal | None, progress: bool) -> list[list[Output]]:
        """Each setting's outputs, in the order of the batches. Outputs in the journal are not decoded again."""
        outputs: list[list[list[Output] | None]] = [
            [None if journal is None else journal.batch(self.model.name, label, at) for at in range(len(self.batches))]
            for label in self.labels
        ]
        done = {(index, at) for index, own in enumerate(outputs) for at, found in enumerate(own) if found is not None}
        batches = [[self.prompts[problem] for problem in batch] for batch in self.batches]
        with (
            tqdm(total=len(batches), desc=f"{self.model.name}: answers", disable=not progress) as bar,
            contextlib.closing(answers_in_turn(self.model, self.settings, batches, done=done)) as answers,
        ):
            for each in answers:
                bar.update(each.batch - bar.n)
                if not isinstance(each, BatchAnswers):
                    continue
                outputs[each.setting][each.batch] = found = list(each.outputs)
                if journal is not None:
                    named = [(problem, problems[problem].id) for problem in self.batches[each.batch]]
                    journal.add(self.model.name, self.labels[each.setting], each.batch, named, found)
            bar.update(len(batches) - bar.n)
        return [[each for rows in own for each in rows] for own in outputs]

    def judge(
        self, problems: Sequence[Problem], outputs: Sequence[Sequence[Output]], run_code: bool, progress: bool
    ) -> None:
        """Turn outputs into answers. Equal texts are judged once: self-speculation and AR give mostly equal texts."""
        order = [(problem, number) for number, batch in enumerate(self.batches) for problem in batch]
        answers: list[list[Answer | None]] = [[None] * len(problems) for _ in outputs]
        bar = tqdm(order, desc=f"{self.model.name}: verdicts", disable=not progress, leave=False)
        for at, (index, batch) in enumerate(bar):
            verdicts: dict[str, Verdict] = {}
            for own, found in zip(outputs, answers):
                each = own[at]
                if each.text not in verdicts:
                    verdicts[each.text] = check(problems[index], each.text, run_code=run_code)
                verdict = verdicts[each.text]
                if verdict.correct is None and self.not_judged is None:
                    self.not_judged = verdict.why
                found[index] = Answer(each.token_ids, each.finish_reason, each.metrics, verdict.correct, batch)
        self.answered = [
            Answered(self.model.name, label, settings.strategy, not settings.temperature, own)
            for label, settings, own in zip(self.labels, self.settings, answers)
        ]

    def report(self, problems: Sequence[Problem], threads: int, code_run: bool) -> ModelReport:
        """The figures of every setting, by domain and overall."""
        results = []
        for each, settings in zip(self.answered, self.filled_settings()):
            by_domain: dict[str, list[Answer]] = {}
            for problem, answer in zip(problems, each.answers):
                by_domain.setdefault(problem.domain, []).append(answer)
            domains = {domain: each.figures(own) for domain, own in by_domain.items()}
            results.append(SettingReport(each.setting, settings, each.figures(), domains))
        return ModelReport(
            name=self.model.name,
            parameters=self.model.parameters,
            dtype=str(self.model.dtype).removeprefix("torch."),
            device=str(self.model.device),
            threads=threads,
            code_run=code_run,
            not_judged=self.not_judged,
            results=tuple(results),
        )

    def comparisons(self, problems: Sequence[Problem]) -> list[Comparison]:
        """Each other setting compared with this model's AR."""
        if self.baseline is None:
            return []
        ar = self.answered[self.baseline]
        others = [each for each in self.answered if each is not ar]
        return [against_own_ar(each, ar, self.model, self.prompts, problems) for each in others]


def _encoded(model: BlockModel, number: int, problem: Problem) -> list[int]:
    """A problem's prompt as token ids. Raises PromptError with the number of the problem."""
    try:
        return encode(model, problem.prompt)[1]
    except PromptError as error:
        named = f", {problem.id}" if problem.id else ""
        raise PromptError(f"Problem {number}{named}: {error}") from error


def _definitions(batch_size: int) -> Definitions:
    """The definitions of figures that have more than one usual definition."""
    per_second = "(output tokens - 1), summed / decode seconds, one prompt at a time"
    if batch_size > 1:
        per_second = (
            f"(output tokens - 1) of all rows / wall time of the batch, up to {batch_size} prompts of one domain side "
            "by side; tokens per forward is counted row by row"
        )
    return Definitions(
        tokens_per_second=per_second,
        accuracy_interval="95 %, Wilson's score interval, of the judged answers",
        aup="of the curve's points that count and its model's AR, best accuracy as given; points more than "
        f"{MOST_LOST:g} points of accuracy below the least parallel one do not count",
    )


def _threads_for(model: BlockModel, journal: Journal | None) -> int:
    """Set the thread count for decoding a model: the fastest one, or that of the run that is resumed."""
    before = None if journal is None else journal.threads(model.name)
    if before is not None:
        torch.set_num_threads(before)
        return before
    chosen = choose_threads(model)
    if journal is not None:
        journal.add_threads(model.name, chosen)
    return chosen


def _fingerprint(entries: Sequence[_Entry], machine: MachineFacts) -> dict[str, Any]:
    """All facts on which the answers and their times depend, except the problems and the batch size."""
    return {
        "engine version": engine_digest(),
        "set of models": ", ".join(entry.model.name for entry in entries),
        "dtype": ", ".join(str(entry.model.dtype).removeprefix("torch.") for entry in entries),
        "device": ", ".join(str(entry.model.device) for entry in entries),
        "set of settings": [[list(pair) for pair in zip(entry.labels, entry.filled_settings())] for entry in entries],
        "machine": {name: value for name, value in machine.to_json().items() if name != "date"},
        "set of weights": [weights_digest(entry.model) for entry in entries],
        "tokenizer or set of problems": [digest([e.prompts, sorted(e.model.eos_token_ids)]) for e in entries],
    }


def _fits(model: BlockModel, settings: DecodeSettings) -> bool:
    """Whether a model supports the strategy of the settings. Other values that do not fit it raise errors elsewhere."""
    if settings.strategy == "ar":
        return model.spec is None or model.spec.commits_as_ar
    return model.spec is not None and (settings.strategy == "block_diffusion" or model.spec.commits_as_ar)


def _check_asked(entries: Sequence[_Entry], settings: Sequence[DecodeSettings] | None) -> None:
    """Refuse repeated names, and settings that fit no model."""
    names = [entry.model.name for entry in entries]
    labels = [label_of(each) for each in settings or ()]
    for kind, given in (("model", names), ("setting", labels)):
        twice = next((each for each in given if given.count(each) > 1), None)
        if twice is not None:
            raise SettingError(f"The {kind} {twice} is given twice; give it once.")
    model = entries[0].model
    for each, label in zip(settings or (), labels):
        if each.strategy is None:
            raise SettingError("A setting of an evaluation has no strategy; name one.")
        if not any(label in entry.labels for entry in entries):
            prepare(model, entries[0].prompts[0], strategy=each.strategy)  # raises with the reason
    for entry in entries:
        if not entry.settings:
            prepare(entry.model, entry.prompts[0], strategy="ar")  # raises with the reason
