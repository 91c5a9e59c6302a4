"""The Block sizes tab: decodes a prompt or problems with several settings; a table, figures, answers and a CSV file."""

import dataclasses
import secrets
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from nbdiff_engine import NBDiffError
from nbdiff_engine.tasks import DOMAINS
from nbdiff_engine.token_choice.unmasking import POLICIES as UNMASKING_POLICIES
from playground.event_options import QUIET
from playground.new_choice import on_new_choice
from playground.options import ServerOptions
from playground.page_words import in_page_words
from playground.server.loaded_models import LoadedModels
from playground.server.tables import STRATEGY_NAMES
from playground.server.web_files import read
from playground.server.worker import RELOAD_SECONDS, Frame, QueueFullError, Worker
from playground.sweep.opened_answer import opened_answer
from playground.sweep.own_problems import OwnProblems
from playground.sweep.sweep import BLOCK_SIZES, POLICY_CHOICES, SELF_SPECULATION, SweepSpec, check_sweep
from playground.sweep.sweep_figures import (
    accuracy_against_tpf,
    agreement_against_block_size,
    speed_against_block_size,
    tokens_per_forward_against_block_size,
)
from playground.sweep.sweep_frames import SweepAnswer
from playground.sweep.sweep_rows import TableRow, table, to_csv
from playground.sweep.sweep_table import (
    UnderWay,
    answers_of,
    how_little,
    lane_of,
    name_of,
    progress_html,
    status_line,
    table_html,
)

POLL_SECONDS = 0.6
MOST_FILES = 32  # CSV files that are kept for download
PROMPT_SOURCE, HELD_OUT = "My prompt", "Held-out "
ALONE, THRESHOLDS, POLICIES, MODELS = "Block size only", "Thresholds", "Policies", "Models"
POLICY_LABELS = [
    (STRATEGY_NAMES[name] if name == SELF_SPECULATION else UNMASKING_POLICIES[name].label, name)
    for name in POLICY_CHOICES
]

_INTRO = (
    "**Block size 1 is AR**: the same weights, one token per forward. Larger blocks decode more tokens per forward, "
    "but a block that is too large makes the text worse. AR always runs; it is the baseline."
)
_KEEP = "(run) => { try { localStorage.setItem('nbdiff.sweep', run); } catch {} }"
_RECALL = "() => { try { return [localStorage.getItem('nbdiff.sweep') ?? '']; } catch { return ['']; } }"
_LEGEND = (
    "Speed-up: tokens/s divided by those of AR, which is measured in the same turns. Same text as AR: share of answers "
    "with the same tokens as AR. Accuracy: share of correct answers, with its 95 % interval. Mean length: tokens per "
    "answer. Bars in the figure of the speed: the middle half of the answers. AUP: the area under the accuracy, along "
    "the tokens per forward."
)


class BlockSizesTab:
    """The tab's handlers around the worker and the loaded models. `build` lays it out in the Blocks being built."""

    def __init__(self, loaded: LoadedModels, worker: Worker, options: ServerOptions):
        self.loaded = loaded
        self.worker = worker
        self.options = options
        self.own = OwnProblems()
        self._kept: OrderedDict[str, tuple[UnderWay, list[Frame]]] = OrderedDict()  # the last sweeps, by their runs
        self._folder = tempfile.TemporaryDirectory(prefix="nbdiff-sweeps-")  # deleted when the server stops

    # -- layout ------------------------------------------------------------------------------------------

    def build(self, blocks: gr.Blocks) -> None:
        """Lay out the tab in `blocks`."""
        names = list(self.loaded.names())
        sources = _sources()
        gr.Markdown(_INTRO, elem_id="sweep-intro")
        with gr.Row(elem_classes="asking"):
            self.model = gr.Dropdown(names, value=names[0] if names else None, label="Model", min_width=180)
            self.source = gr.Dropdown(sources, value=sources[1][1], label="Prompts", min_width=180)
            self.upload = gr.UploadButton(
                "Upload problems", file_types=[".jsonl"], size="md", min_width=180, elem_id="sweep-upload"
            )
            # Without limits of its own: Gradio answers a value outside of them with a traceback.
            most = self.options.max_problems
            self.problems = gr.Number(min(8, most), label=f"Problems (at most {most})", min_width=150)
            self.limit = gr.Number(min(96, self.options.max_new_tokens), label="Max new tokens", min_width=120)
        self.prompt = gr.Textbox(label="Prompt", lines=2, max_lines=8, visible=False, placeholder="Write a prompt.")
        choices = [("1 = AR" if size == 1 else str(size), size) for size in BLOCK_SIZES]
        self.sizes = gr.CheckboxGroup(choices, value=self._sizes(names[0] if names else None), label="Block sizes")
        self.drafted = gr.Checkbox(
            True, label="Self-speculation as a series too", container=False, elem_id="sweep-drafted"
        )
        self.vary = gr.Radio([ALONE, THRESHOLDS, POLICIES, MODELS], value=ALONE, label="Compare")
        self.thresholds = gr.CheckboxGroup(
            [(f"{each:g}", each) for each in (0.5, 0.7, 0.8, 0.9, 0.95)],
            value=[0.7, 0.9],
            label="Confidence thresholds, one series each",
            visible=False,
        )
        self.policies = gr.CheckboxGroup(
            POLICY_LABELS, value=["confidence", SELF_SPECULATION], label="Policies, one series each", visible=False
        )
        self.models = gr.Dropdown(
            names, value=names[:2], multiselect=True, label="Models, one series each", visible=False, min_width=200
        )
        with gr.Row():
            self.run_button = gr.Button("Run", variant="primary", scale=0, min_width=150, elem_id="sweep-run")
            self.stop_button = gr.Button(
                "Stop", variant="stop", interactive=False, scale=0, min_width=150, elem_id="sweep-stop"
            )
        self._build_results()
        self._wire(blocks)

    def _build_results(self) -> None:
        self.status = gr.HTML(
            status_line("No results yet."), js_on_load=None, apply_default_css=False, elem_id="sweep-said"
        )
        self.table = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="sweep-table", visible=False)
        self.legend = gr.Markdown(_LEGEND, elem_id="sweep-legend", visible=False)
        self.little = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="sweep-little")
        with gr.Column(visible=False, elem_id="sweep-plots") as self.plots:
            gr.Markdown("Click a point to see its answers alone, below the figures.")
            with gr.Row():
                self.accuracy = gr.Plot(label="Accuracy against tokens per forward", min_width=320)
                self.per_forward = gr.Plot(label="Tokens per forward", min_width=320)
            with gr.Row():
                self.agreement = gr.Plot(label="Agreement with AR", min_width=320)
                self.speed = gr.Plot(label="Speed", min_width=320)
        self.answers = gr.HTML(
            value={"answers": []},
            html_template=read("sweep_answers.html"),
            css_template=read("sweep_answers.css"),
            js_on_load=read("sweep_answers.js"),
            apply_default_css=False,
            elem_id="sweep-outputs",
        )
        self.download = gr.DownloadButton("Download as CSV", visible=False, size="sm", elem_id="sweep-csv")
        self.timer = gr.Timer(POLL_SECONDS, active=False)
        self.under_way = gr.State(None)  # an UnderWay after the first Run
        self.opened = gr.State(None)  # an OpenedAnswer after a click on an answer
        self.shown_run = gr.Textbox(visible=False)  # its run, which the browser remembers

    def _wire(self, blocks: gr.Blocks) -> None:
        question = [self.model, self.source, self.problems, self.limit, self.prompt, self.sizes]
        form = [*question, self.vary, self.thresholds, self.policies, self.models, self.drafted]
        progress = [self.status, self.table, self.legend, self.little, self.answers, self.stop_button, self.timer]
        figures = [self.speed, self.per_forward, self.agreement, self.accuracy]
        results = [self.plots, *figures, self.download]
        self.run_button.click(
            self.start,
            [self.under_way, *form],
            [self.under_way, self.status, self.stop_button, self.timer, self.shown_run],
            **QUIET,
        ).then(None, self.shown_run, None, js=_KEEP, api_visibility="private")
        blocks.load(self.resume, self.shown_run, [self.under_way, self.timer], js=_RECALL, **QUIET)
        self.stop_button.click(self.stop, self.under_way, None, **QUIET)
        self.timer.tick(self.tick, self.under_way, [*progress, *results], **QUIET)
        self.upload.upload(self.uploaded, self.upload, [self.source, self.problems, self.status], **QUIET)
        self.answers.picked(self.show_answers, self.under_way, self.answers, **QUIET)
        # Only an event in the queue of Gradio triggers the `change` of a state that it sets.
        self.answers.opened(self.open_answer, self.under_way, self.opened, **{**QUIET, "queue": True})
        by_source = {self.prompt: True, self.problems: False}
        self.source.change(
            lambda chosen: {
                each: gr.update(visible=own == (chosen == PROMPT_SOURCE)) for each, own in by_source.items()
            },
            self.source,
            list(by_source),
            **QUIET,
        )
        by_series = {self.thresholds: THRESHOLDS, self.policies: POLICIES, self.models: MODELS}
        self.vary.change(
            lambda chosen: {each: gr.update(visible=chosen == name) for each, name in by_series.items()},
            self.vary,
            list(by_series),
            **QUIET,
        )
        on_new_choice(self.model, lambda name: {self.sizes: self._sizes(name)}, [], [self.sizes], **QUIET)
        # Another tab may have loaded or unloaded models: the lists are updated when the page is opened.
        self.lists = [self.model, self.models]
        blocks.load(self.refreshed, self.lists, self.lists, **QUIET)

    def refreshed(self, model: Any, models: Any) -> dict[Any, Any]:
        """`lists` with the models that are loaded now."""
        names = list(self.loaded.names())
        kept = [name for name in models or () if name in names]
        one = model if model in names else next(iter(names), None)
        return {self.model: gr.update(choices=names, value=one), self.models: gr.update(choices=names, value=kept)}

    def _sizes(self, name: str | None) -> list[int]:
        """The block sizes up to that of the training of a model."""
        try:
            spec = self.loaded.get(name).spec if name is not None else None
        except NBDiffError:
            spec = None
        return [size for size in BLOCK_SIZES if size <= (1 if spec is None else spec.block_size)]

    # -- requests of visitors ----------------------------------------------------------------------------

    def start(self, before: UnderWay | None, *form: Any) -> dict[Any, Any]:
        """Put a sweep into the queue. After an error, which is shown in one sentence, a running sweep continues."""
        try:
            own = self.own.get(form[1])
            spec = _spec(*form)
            checked = check_sweep(self.loaded, spec, self.options, own)
            run_id = self.worker.submit(checked.parts)
        except (NBDiffError, QueueFullError) as error:
            return {self.status: status_line(in_page_words(error), error=True)}
        if before is not None:
            self.worker.stop(before.run)
        under_way = UnderWay(
            run_id,
            secrets.token_hex(8),
            checked.total,
            checked.note,
            names=tuple(map(name_of, checked.settings)),
            lanes=tuple(map(lane_of, checked.settings)),
            prompts=tuple(checked.prompts),
            max_new_tokens=spec.max_new_tokens,
        )
        self._keep(under_way, [])
        return {
            self.under_way: under_way,
            self.shown_run: run_id,
            self.status: status_line("Queued.", 0, checked.total, checked.note),
            self.stop_button: gr.update(interactive=True),
            self.timer: gr.Timer(active=True),
        }

    def resume(self, run: Any) -> dict[Any, Any]:
        """A page was loaded again: show its sweep, which may be in progress. run: as the browser has stored it."""
        if not isinstance(run, str) or run not in self._kept:
            return {self.under_way: None}
        under_way = dataclasses.replace(self._kept[run][0], viewer=secrets.token_hex(8))
        return {self.under_way: under_way, self.timer: gr.Timer(active=True)}

    def uploaded(self, path: Any) -> dict[Any, Any]:
        """Choose the problems of an upload, as many of them as a sweep may have."""
        if not path:
            return gr.skip()
        try:
            key, label, count = self.own.read(path)
        except NBDiffError as error:
            return {self.status: status_line(str(error), error=True)}
        return {
            self.source: gr.update(choices=[*_sources(), (label, key)], value=key),
            self.problems: min(count, self.options.max_problems),
            self.status: status_line(f"{label} can be run."),
        }

    def show_answers(self, under_way: UnderWay | None, event: gr.EventData) -> Any:
        """The answers of the point that was clicked. Its row is among those with answers, in their order."""
        log = self._log_of(under_way)
        numbers = sorted({frame.setting for frame in log if isinstance(frame, SweepAnswer)})
        row = event._data.get("row") if isinstance(event._data, dict) else None
        if under_way is None or not isinstance(row, int) or not 0 <= row < len(numbers):
            return gr.skip()
        return {"answers": answers_of(log, under_way.prompts, numbers[row])}

    def open_answer(self, under_way: UnderWay | None, event: gr.EventData) -> Any:
        """Open an answer in the Decode tab."""
        return gr.skip() if under_way is None else opened_answer(under_way, event._data) or gr.skip()

    def _log_of(self, under_way: UnderWay | None) -> list[Frame]:
        """The frames of a sweep, also of one that ended long ago."""
        if under_way is None:
            return []
        log = [each.frame for each in self.worker.log(under_way.run)]
        return log or self._kept.get(under_way.run, (None, []))[1]

    def _keep(self, under_way: UnderWay, log: list[Frame]) -> None:
        self._kept[under_way.run] = (under_way, log)
        while len(self._kept) > MOST_FILES:
            self._kept.popitem(last=False)

    def stop(self, under_way: UnderWay | None) -> None:
        """Stop the sweep that is shown."""
        if under_way is not None:
            self.worker.stop(under_way.run)

    def tick(self, under_way: UnderWay | None) -> dict[Any, Any]:
        """The results so far; at the end also the figures and the CSV file."""
        if under_way is None:
            return {self.timer: gr.Timer(active=False)}
        reply = self.worker.poll(under_way.run, under_way.viewer, 0)
        self.worker.hold(under_way.run, under_way.viewer, max(RELOAD_SECONDS, self.options.lease_seconds))
        log = [each.frame for each in self.worker.log(under_way.run)]
        if reply.state == "unknown" and under_way.run in self._kept:  # it ended long ago
            log = self._kept[under_way.run][1]
            reply = dataclasses.replace(reply, state="stopped", message="An earlier sweep.")
        rows = table(log)
        over = reply.state not in ("queued", "running")
        if over:
            self._keep(under_way, log)
        update = {
            self.status: progress_html(reply, log, under_way),
            self.table: gr.update(value=table_html(rows), visible=bool(rows)),
            self.legend: gr.update(visible=bool(rows)),
            self.stop_button: gr.update(interactive=not over),
            self.timer: gr.Timer(active=not over),
        }
        return {**update, **self._results(rows, log, under_way)} if over and rows else update

    def _results(self, rows: Sequence[TableRow], log: Sequence[Frame], under_way: UnderWay) -> dict[Any, Any]:
        """The figures, the answers and the CSV file of a sweep that has ended."""
        little = how_little(rows)
        judged = any(each.accuracy is not None for each in rows)
        return {
            self.plots: gr.update(visible=True),
            self.little: f'<p class="said" role="status">{little}</p>' if little else "",
            self.answers: {"answers": answers_of(log, under_way.prompts)},
            self.speed: speed_against_block_size(rows),
            self.per_forward: tokens_per_forward_against_block_size(rows),
            self.agreement: agreement_against_block_size(rows),
            self.accuracy: gr.update(value=accuracy_against_tpf(rows) if judged else None, visible=judged),
            self.download: gr.update(value=self._file(rows), visible=True),
        }

    def _file(self, rows: Sequence[TableRow]) -> str:
        """Write the table to a new temporary file; returns its path."""
        folder = Path(self._folder.name)
        for old in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime)[: -MOST_FILES + 1]:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()
        place = Path(tempfile.mkdtemp(dir=folder)) / "block-sizes.csv"
        place.write_text(to_csv(rows), encoding="utf-8")
        return str(place)


def _spec(
    model: Any,
    source: Any,
    problems: Any,
    limit: Any,
    prompt: Any,
    sizes: Any,
    vary: Any,
    thresholds: Any,
    policies: Any,
    models: Any,
    drafted: Any = False,
) -> SweepSpec:
    held_out = str(source).removeprefix(HELD_OUT) if str(source).startswith(HELD_OUT) else None
    return SweepSpec.of(
        models=models if vary == MODELS else [model] if model else [],
        block_sizes=sizes,
        thresholds=thresholds if vary == THRESHOLDS else (),
        policies=policies if vary == POLICIES else (),
        self_speculation=bool(drafted) and vary != POLICIES,
        prompt=prompt or "",
        domain=held_out,
        problems=problems,
        max_new_tokens=limit,
    )


def _sources() -> list[tuple[str, str]]:
    names = [PROMPT_SOURCE, *(f"{HELD_OUT}{domain}" for domain in DOMAINS)]
    return [(name, name) for name in names]
