"""Accuracy and speed of models under decode settings, side by side on the held-out problems.

One prompt at a time. On every prompt the settings of a model take turns, so that a busy moment of the machine
slows them alike; which of them goes first rotates. Answers are judged once a model is done, outside all timing.
"""

import dataclasses
import datetime
import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

from nbdiff_engine.block_model import BlockModel
from nbdiff_engine.checkpoints import bundled_models
from nbdiff_engine.errors import SettingError
from nbdiff_engine.evaluation_report import (
    Answer,
    Comparison,
    Difference,
    Evaluation,
    Figures,
    ModelReport,
    SettingReport,
)
from nbdiff_engine.generate import Output, generate, prepare
from nbdiff_engine.prompts import encode
from nbdiff_engine.settings import DecodeSettings
from nbdiff_engine.tasks import Problem, Verdict, check
from nbdiff_engine.threads import choose_threads

AR = DecodeSettings.of(strategy="ar")
DEFAULT_SETTINGS = (
    AR,
    DecodeSettings.of(strategy="block_diffusion", block_size=16, threshold=0.9),
    DecodeSettings.of(strategy="self_speculative", block_size=16),
)
MAX_NEW_TOKENS = 160


def evaluate(
    models: Sequence[BlockModel],
    problems: Sequence[Problem],
    settings: Sequence[DecodeSettings] | None = None,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    run_code: bool | None = None,
    progress: bool = False,
) -> Evaluation:
    """Answer the problems with every model under every setting that it can be decoded with.

    settings: DEFAULT_SETTINGS unless given. Those that a model cannot be decoded with are left out for that
        model; AR is put in front where it is missing, as what the others are compared with. A setting's own
        max_new_tokens goes before the argument; traces are never recorded.
    run_code: whether programs in the answers are run to judge them. None: those of bundled models are.
    progress: bars on standard error.

    Raises SettingError or PromptError before anything is decoded. Torch's thread count is chosen for each model
    and put back at the end.
    """
    problems = list(problems)
    if not models or not problems:
        raise SettingError(f"There is no {'problem' if models else 'model'} to evaluate; give at least one.")
    entries = [_Entry.of(model, problems, settings, max_new_tokens) for model in models]
    _check_asked(entries, settings)
    threads = torch.get_num_threads()
    reports: list[ModelReport] = []
    comparisons: list[Comparison] = []
    try:
        for entry in entries:
            torch.set_num_threads(threads)
            chosen = choose_threads(entry.model)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # each was shown when the settings were checked
                outputs = entry.decode(progress)
            code = entry.model.name in bundled_models() if run_code is None else run_code
            entry.judge(problems, outputs, code, progress)
            reports.append(entry.report(problems, chosen, code))
            comparisons += entry.comparisons(problems)
            first = entries[0]
            if entry is not first and entry.baseline is not None and first.baseline is not None:
                comparisons.append(_across(entry, first))
    finally:
        torch.set_num_threads(threads)
    domains = [problem.domain for problem in problems]
    return Evaluation(
        machine=machine_facts(),
        problems={domain: domains.count(domain) for domain in dict.fromkeys(domains)},
        max_new_tokens=max_new_tokens,
        models=tuple(reports),
        comparisons=tuple(comparisons),
    )


@dataclass(slots=True)
class _Entry:
    """A model in the evaluation: what it is asked, and under each of its settings what it answered."""

    model: BlockModel
    prompts: list[list[int]]
    labels: list[str]
    settings: list[dict[str, Any]]
    settled: list[dict[str, Any]]  # the same with what the checkpoint's spec fills in
    baseline: int | None  # which of the settings is AR; None for a model that has no AR decoding
    answers: list[list[Answer]]
    not_judged: str | None = None  # why the first answer that nobody judged was not

    @classmethod
    def of(
        cls, model: BlockModel, problems: Sequence[Problem], settings: Sequence[DecodeSettings] | None, limit: int
    ) -> "_Entry":
        """Check everything that can be wrong with one model, without decoding anything."""
        chosen = [each for each in settings or DEFAULT_SETTINGS if _fits(model, each)]
        if _fits(model, AR) and all(each.strategy != "ar" for each in chosen):
            chosen.insert(0, AR)
        keywords = [{"max_new_tokens": limit, **each.model_dump(exclude_unset=True), "trace": False} for each in chosen]
        prompts = [encode(model, problem.prompt)[1] for problem in problems]
        settled = [prepare(model, prompts[0], **each).settings for each in keywords]
        return cls(
            model=model,
            prompts=prompts,
            labels=[label_of(each) for each in chosen],
            settings=keywords,
            settled=settled,
            baseline=next((index for index, each in enumerate(chosen) if each.strategy == "ar"), None),
            answers=[],
        )

    def decode(self, progress: bool) -> list[list[Output]]:
        """Each setting's outputs, in the order of the prompts."""
        for settings in self.settings:
            generate(self.model, self.prompts[0], **settings)  # warm-up
        count = len(self.settings)
        outputs: list[list[Output]] = [[] for _ in self.settings]
        for number, prompt in enumerate(tqdm(self.prompts, desc=f"{self.model.name}: answers", disable=not progress)):
            for turn in range(count):
                index = (number + turn) % count
                outputs[index].append(generate(self.model, prompt, **self.settings[index]))
        return outputs

    def judge(
        self, problems: Sequence[Problem], outputs: Sequence[Sequence[Output]], run_code: bool, progress: bool
    ) -> None:
        """Turn outputs into answers. The same text is judged once: self-speculation and AR mostly agree."""
        self.answers = [[] for _ in outputs]
        for number, problem in enumerate(
            tqdm(problems, desc=f"{self.model.name}: verdicts", disable=not progress, leave=False)
        ):
            verdicts: dict[str, Verdict] = {}
            for own, answers in zip(outputs, self.answers):
                each = own[number]
                if each.text not in verdicts:
                    verdicts[each.text] = check(problem, each.text, run_code=run_code)
                verdict = verdicts[each.text]
                if verdict.correct is None and self.not_judged is None:
                    self.not_judged = verdict.why
                answers.append(Answer(each.token_ids, each.finish_reason, each.metrics, verdict.correct))

    def figures(self, index: int, answers: Sequence[Answer]) -> Figures:
        return Figures.pooled(answers, self.settings[index]["strategy"] == "self_speculative")

    def report(self, problems: Sequence[Problem], threads: int, code_run: bool) -> ModelReport:
        """The figures of every setting, by domain and overall."""
        results = []
        for index, answers in enumerate(self.answers):
            by_domain: dict[str, list[Answer]] = {}
            for problem, answer in zip(problems, answers):
                by_domain.setdefault(problem.domain, []).append(answer)
            results.append(
                SettingReport(
                    setting=self.labels[index],
                    settings=self.settled[index],
                    overall=self.figures(index, answers),
                    domains={domain: self.figures(index, own) for domain, own in by_domain.items()},
                )
            )
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
        """Every other setting against this model's AR."""
        if self.baseline is None:
            return []
        ar = self.answers[self.baseline]
        ar_figures = self.figures(self.baseline, ar)
        found = []
        for index, answers in enumerate(self.answers):
            if index == self.baseline:
                continue
            figures = self.figures(index, answers)
            differences = self._differences(index, problems)
            verdicts = Comparison.of(
                (self.model.name, self.labels[index]),
                (self.model.name, self.labels[self.baseline]),
                [(one.correct, other.correct) for one, other in zip(answers, ar)],
            )
            found.append(
                dataclasses.replace(
                    verdicts,
                    seconds_ratio=_ratio(figures.seconds, ar_figures.seconds),
                    tokens_per_second_ratio=_ratio(figures.tokens_per_second, ar_figures.tokens_per_second),
                    identical=len(answers) - len(differences),
                    differences=tuple(differences),
                )
            )
        return found

    def _differences(self, index: int, problems: Sequence[Problem]) -> list[Difference]:
        greedy = all(not self.settings[each].get("temperature") for each in (index, self.baseline))
        found = []
        for number, (one, ar) in enumerate(zip(self.answers[index], self.answers[self.baseline])):
            if one.token_ids == ar.token_ids:
                continue
            pairs = enumerate(zip_longest(one.token_ids, ar.token_ids))
            position = next(at for at, (mine, other) in pairs if mine != other)
            gap = None
            if greedy and position < min(len(one.token_ids), len(ar.token_ids)):
                gap = top_two_gap(self.model, [*self.prompts[number], *ar.token_ids[:position]])
            found.append(Difference(number, problems[number].domain, position, gap))
        return found


def top_two_gap(model: BlockModel, context: Sequence[int]) -> float:
    """How far apart the logits of AR's two best tokens after `context` are, MASK left out as in decoding."""
    logits_V = model.open(1, len(context)).prefill([context])[0]
    if model.spec is not None:
        logits_V[model.spec.mask_token_id] = -torch.inf
    best, second = logits_V.topk(2).values.tolist()
    return best - second


def label_of(settings: DecodeSettings) -> str:
    """A setting as `--setting` takes it: the strategy, then what was chosen beside it."""
    parts = [str(settings.strategy)]
    for name in DecodeSettings.model_fields:
        value = getattr(settings, name)
        if name in ("strategy", "trace") or name not in settings.model_fields_set or value is None:
            continue
        parts += [f"{name}={each}" for each in (value if name == "stop" else (value,))]
    return ",".join(parts)


def machine_facts() -> dict[str, Any]:
    """What the speeds depend on, beside the threads and the dtype that each model has."""
    cpu = platform.processor() or platform.machine()
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    except OSError:
        pass  # not Linux
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def _fits(model: BlockModel, settings: DecodeSettings) -> bool:
    """Whether a model can be decoded with a strategy at all; values that do not fit it are errors instead."""
    if settings.strategy == "ar":
        return model.spec is None or model.spec.commits_as_ar
    return model.spec is not None and (settings.strategy == "block_diffusion" or model.spec.commits_as_ar)


def _check_asked(entries: Sequence[_Entry], settings: Sequence[DecodeSettings] | None) -> None:
    """Refuse names that stand twice, and settings that no model can be decoded with."""
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
            prepare(model, entries[0].prompts[0], strategy=each.strategy)  # says why not
    for entry in entries:
        if not entry.settings:
            prepare(entry.model, entry.prompts[0], strategy="ar")  # says why not


def _across(entry: _Entry, first: _Entry) -> Comparison:
    """A model's AR against that of the first model. Their speeds were not measured side by side."""
    pairs = zip(entry.answers[entry.baseline], first.answers[first.baseline])
    return Comparison.of(
        (entry.model.name, entry.labels[entry.baseline]),
        (first.model.name, first.labels[first.baseline]),
        [(one.correct, other.correct) for one, other in pairs],
    )


def _ratio(this: float | None, baseline: float | None) -> float | None:
    return this / baseline if this is not None and baseline else None
